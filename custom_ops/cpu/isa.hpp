// The instruction set of this translation unit. RESQ_ISA is its name and the kernels' namespace.
//
// A kernels_*.cpp defines it and includes its vectors, dots, pairs and streams. Without that, as in
// an editor, a header gets the scalar ones.
#pragma once

#ifndef RESQ_ISA
#define RESQ_ISA scalar
#include "dots_scalar.hpp"
#include "pairs_scalar.hpp"
#include "streams_scalar.hpp"
#include "vectors_scalar.hpp"
#endif

#include "partial.hpp"
