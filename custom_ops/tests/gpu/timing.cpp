// Warm-up, rotation through more memory than the L2 cache holds, medians.
#include "timing.hpp"

#include <algorithm>
#include <cstdio>
#include <istream>

#include "steps.hpp"

namespace resq::tests::gpu {
namespace {

// Steps and layers are measured on copies of their weights that fill the L2 cache this many times:
// otherwise the cache would hold what a model of many layers has to read from memory. At most this
// many copies.
constexpr std::size_t kCaches = 4, kMostCopies = 64;
// Launches of a graph, at least: the time between two of them is then part of what is measured, as
// it is in a model, but the launch of the graph itself is not.
constexpr std::size_t kLaunches = 8;
// Samples, and how much time they may take.
constexpr int kWarmUps = 2;
constexpr double kLeastSamples = 3.0, kMostSamples = 21.0, kMilliseconds = 60.0;

using Steps = std::vector<std::unique_ptr<Step>>;

class Timer {
  public:
    explicit Timer(bool once) : device_(gpu::device()), content_(stream_), once_(once) {}

    const Device& device() const { return device_; }

    // Microseconds of a step.
    double time_step(const Shape& shape) {
        Memory memory(stream_);
        Steps copies;
        const std::size_t count = copies_of(constant_bytes(shape));
        while (copies.size() < count) {
            const Step* like = copies.empty() ? nullptr : copies.front().get();
            copies.push_back(make_step(shape, memory, content_, nullptr, like));
        }
        const std::size_t passes = (kLaunches + count - 1) / count;
        return time(copies, once_ || !device_.has_clock ? 1 : passes);
    }

    // Microseconds of all layers. A copy of the stack reads what the last one wrote.
    double time_stack(const std::vector<Shape>& layer, std::size_t layers) {
        std::size_t bytes = 0;
        for (const Shape& step : layer) {
            bytes += layers * constant_bytes(step);
        }
        const std::size_t copies = copies_of(bytes);
        Memory memory(stream_);
        Steps all;
        for (std::size_t i = 0; i < layers * copies; ++i) {
            for (std::size_t j = 0; j < layer.size(); ++j) {
                const void* x = all.empty() ? nullptr : all.back()->y();
                const Step* like = i > 0 ? all[j].get() : nullptr;
                all.push_back(make_step(layer[j], memory, content_, x, like));
            }
        }
        return time(all, 1) * static_cast<double>(all.size() / copies);
    }

  private:
    // Copies of weights of this size that are measured.
    std::size_t copies_of(std::size_t bytes) const {
        const std::size_t wanted =
            bytes > 0 && !once_ ? (kCaches * device_.cache_bytes + bytes - 1) / bytes : 0;
        return std::clamp(wanted, std::size_t{1}, kMostCopies);
    }

    // Microseconds of one of the steps, on average.
    double time(const Steps& steps, std::size_t passes) {
        const auto launch = [&] {
            for (std::size_t pass = 0; pass < passes; ++pass) {
                for (const auto& step : steps) {
                    stream_.launch([&step](cuda::Queue& queue) { step->launch(queue); });
                }
            }
        };
        stream_.wait();
        if (once_) {
            launch();
            stream_.wait();
            return 0.0;
        }
        Graph graph(stream_, launch);
        return 1e3 * median(graph) / static_cast<double>(passes * steps.size());
    }

    // Milliseconds of a graph.
    double median(Graph& graph) {
        if (!device_.has_clock) {
            return stream_.time([&graph] { graph.launch(); });
        }
        for (int i = 0; i < kWarmUps; ++i) {
            graph.launch();
        }
        std::vector<double> samples = {stream_.time([&graph] { graph.launch(); })};
        const double count = std::clamp(kMilliseconds / samples[0], kLeastSamples, kMostSamples);
        while (static_cast<double>(samples.size()) < count) {
            samples.push_back(stream_.time([&graph] { graph.launch(); }));
        }
        std::sort(samples.begin(), samples.end());
        return samples[samples.size() / 2];
    }

    Device device_;
    Stream stream_;
    Content content_;
    bool once_;
};

// The next line that is not empty, and whether there is one.
bool next(std::istream& lines, Shape& shape) {
    for (std::string line; std::getline(lines, line);) {
        shape = Shape::parse(line);
        if (!shape.kind.empty()) {
            return true;
        }
    }
    return false;
}

template <typename Work>
void report(const Work& microseconds) {
    try {
        std::printf("us=%.3f\n", microseconds());
    } catch (const OutOfMemory&) {
        std::printf("error=out of memory\n");
    }
    std::fflush(stdout);
}

}  // namespace

void time_shapes(std::istream& lines, bool once) {
    Timer timer(once);
    const Device& device = timer.device();
    std::printf("device capability=%d clock=%d free=%zu name=%s\n", device.capability,
                device.has_clock ? 1 : 0, device.free_bytes, device.name.c_str());
    for (Shape shape; next(lines, shape);) {
        if (shape.kind != "stack") {
            report([&] { return timer.time_step(shape); });
            continue;
        }
        std::vector<Shape> layer;
        for (Shape step; next(lines, step) && step.kind != "end";) {
            layer.push_back(step);
        }
        report(
            [&] { return timer.time_stack(layer, static_cast<std::size_t>(shape.at("layers"))); });
    }
}

}  // namespace resq::tests::gpu
