// RESQ_EXPORT: marks a C function that the library exports; everything else is hidden.
#pragma once

#define RESQ_EXPORT extern "C" __attribute__((visibility("default")))
