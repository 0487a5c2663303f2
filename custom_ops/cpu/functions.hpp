// exp, and functions based on it.
#pragma once

#include "isa.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// e^x for -87 <= x <= 88, with a relative error of 2^-23. Outside, x is clipped to that range.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r = 1 + r + r² q(r). q interpolates at Chebyshev
// points; its error is 1e-8 of e^r.
inline F exp(F x) {
    x = min(max(x, broadcast(-87.0f)), broadcast(88.0f));
    const F n = round(x * broadcast(0x1.715476p+0f));  // log2(e)
    F r = fma(n, broadcast(-0x1.62e4p-1f), x);         // the first bits of ln 2
    r = fma(n, broadcast(-0x1.7f7d1cp-20f), r);        // the others
    F q = broadcast(0x1.6d431ap-10f);
    q = fma(q, r, broadcast(0x1.120b66p-7f));
    q = fma(q, r, broadcast(0x1.5554eap-5f));
    q = fma(q, r, broadcast(0x1.5554dcp-3f));
    q = fma(q, r, broadcast(0.5f));
    const F fraction = fma(r * r, q, r) + broadcast(1.0f);
    return fraction * as_float((to_int(n) + broadcast(127)) << 23);
}

// e^x for x <= 0, with a relative error of 2^-22 where it is above 2^-24, and of 2^-19 anywhere.
// Below -60, x counts as -60: a sum that has 1 in it stays the same, and so does its share.
//
// 2^n is added to the exponent as an integer: that is where the sum of a number and 1.5 · 2^23 has
// the number, rounded.
inline F exp_of_weight(F x) {
    x = max(x, broadcast(-60.0f));
    const F shifted = fma(x, broadcast(0x1.715476p+0f), broadcast(0x1.8p23f));      // log2(e)
    const F r = fma(shifted - broadcast(0x1.8p23f), broadcast(-0x1.62e43p-1f), x);  // ln 2
    F q = broadcast(0x1.105e86p-7f);
    q = fma(q, r, broadcast(0x1.573322p-5f));
    q = fma(q, r, broadcast(0x1.5557c8p-3f));
    q = fma(q, r, broadcast(0x1.fffde8p-2f));
    q = fma(q, r, broadcast(1.0f));
    q = fma(q, r, broadcast(1.0f));
    return as_float(as_int(q) + (as_int(shifted) << 23));
}

inline float exp(float x) {
    float lanes[kLanes];
    store(lanes, exp(broadcast(x)));
    return lanes[0];
}

// x / (1 + e^-x)
inline F silu(F x) { return x * (broadcast(1.0f) / (broadcast(1.0f) + exp(zero() - x))); }

// x (1 + tanh(t / 2)) / 2 = x / (1 + e^-t), where t = 2 sqrt(2 / pi) (x + 0.044715 x³).
inline F gelu_tanh(F x) {
    const F t = fma(x * x, broadcast(0.044715f) * x, x) * broadcast(1.5957691f);
    return x * (broadcast(1.0f) / (broadcast(1.0f) + exp(zero() - t)));
}

// 1 - 2 / (1 + e^2x), with an absolute error of 2^-23.
inline F tanh(F x) { return broadcast(1.0f) - broadcast(2.0f) / (broadcast(1.0f) + exp(x + x)); }

}  // namespace resq::RESQ_ISA
