// The instruction set of this translation unit: RESQ_ISA names it and is the kernels' namespace.
//
// A kernels_*.cpp defines it and includes the vectors, dots and streams that it is made of. A
// header that is opened alone, as an editor does, gets the scalar ones.
#pragma once

#ifndef RESQ_ISA
#define RESQ_ISA scalar
#include "dots_scalar.hpp"
#include "streams_scalar.hpp"
#include "vectors_scalar.hpp"
#endif

#include "partial.hpp"
