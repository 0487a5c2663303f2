// A line that describes work: a kind, and sizes by name, such as `linear rows=1 outputs=64 …`.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace resq::tests::gpu {

struct Shape {
    std::string kind;
    std::map<std::string, std::int64_t> sizes;

    // Throws std::invalid_argument, if a word is not `name=number`.
    static Shape parse(const std::string& line);

    // A size; throws std::invalid_argument if it is missing.
    std::int64_t at(const std::string& name) const;
};

}  // namespace resq::tests::gpu
