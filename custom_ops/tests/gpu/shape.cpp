// Parses lines.
#include "shape.hpp"

#include <sstream>
#include <stdexcept>

namespace resq::tests::gpu {

Shape Shape::parse(const std::string& line) {
    std::istringstream words(line);
    Shape shape;
    words >> shape.kind;
    for (std::string word; words >> word;) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos) {
            throw std::invalid_argument("\"" + word + "\" is not name=number");
        }
        shape.sizes[word.substr(0, equals)] = std::stoll(word.substr(equals + 1));
    }
    return shape;
}

std::int64_t Shape::at(const std::string& name) const {
    const auto found = sizes.find(name);
    if (found == sizes.end()) {
        throw std::invalid_argument(kind + " has no " + name);
    }
    return found->second;
}

}  // namespace resq::tests::gpu
