"""Hadamard matrices and random rotations, generated instead of tabulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

LARGEST_DENSE_ORDER: Final = 256
"""Largest Hadamard matrix kept as a dense factor.

At run time, the outer factor takes as many multiplications per coefficient as its order. Above
this limit, a smaller random orthogonal block is preferred to an exactly flat one.
"""

LARGEST_INNER_ORDER: Final = 1024
"""Largest Sylvester factor: 4 MB as float32 inside the file.

The rest of a larger power of two goes to the outer factor; the product is the same.
"""


@dataclass(frozen=True)
class KroneckerFactors:
    """The orthogonal matrix kron(outer, inner), applied without being formed.

    Attributes:
        outer: (m, m), orthonormal.
        inner: (2^p, 2^p), orthonormal: a normalised Sylvester matrix, or the identity.
    """

    outer: NDArray[np.float64]
    inner: NDArray[np.float64]

    @property
    def width(self) -> int:
        """Order of the product, m * 2^p."""
        return int(self.outer.shape[0] * self.inner.shape[0])

    @property
    def transposed(self) -> KroneckerFactors:
        """Its inverse, kron(outerᵀ, innerᵀ)."""
        return KroneckerFactors(self.outer.T, self.inner.T)

    def matrix(self) -> NDArray[np.float64]:
        """The product as one dense matrix, (width, width)."""
        return np.asarray(np.kron(self.outer, self.inner))

    def apply(self, x: Array) -> Array:
        """Compute x @ kron(outer, inner) over the last axis, in the precision of x.

        Coefficient i * 2^p + j of a row is element (i, j) of the matrix X that
        outer^T X inner transforms.
        """
        rows = x.reshape(*x.shape[:-1], self.outer.shape[0], self.inner.shape[0])
        mixed = rows @ self.inner.astype(x.dtype)
        mixed = self.outer.T.astype(x.dtype) @ mixed
        return np.asarray(mixed.reshape(x.shape))


def hadamard(order: int) -> NDArray[np.float64]:
    """A Hadamard matrix: entries +-1 and H H^T = order * I.

    Raises:
        ValueError: Neither Sylvester's nor Paley's construction nor a Kronecker product of
            them gives this order.
    """
    build = _construction(order)
    if build is None:
        raise ValueError(f"no Hadamard matrix of order {order} is known to this program")
    return build()


def has_hadamard(order: int) -> bool:
    """Whether `hadamard(order)` would succeed."""
    return _construction(order) is not None


def kronecker_factors(width: int, rng: np.random.Generator) -> KroneckerFactors:
    """Factor a Hadamard-like rotation of any width into outer (m, m) and inner (2^p, 2^p).

    m is the smallest order for which width = m * 2^p, 2^p is at most `LARGEST_INNER_ORDER`
    and a Hadamard matrix is known. If there is none up to `LARGEST_DENSE_ORDER`, m is the odd
    part of the width and outer a random orthogonal matrix, the only use of `rng`.
    """
    order = _hadamard_outer_order(width)
    if order is not None:
        outer = hadamard(order) / np.sqrt(order)
        return KroneckerFactors(outer, _sylvester_rotation(width // order))
    smallest_outer, inner_order = _powers_of_two_inside(width)
    return KroneckerFactors(
        random_orthogonal(smallest_outer, rng), _sylvester_rotation(inner_order)
    )


def outer_order(width: int) -> int:
    """Order of the outer factor of `kronecker_factors`: its multiplications per coefficient."""
    return _hadamard_outer_order(width) or _powers_of_two_inside(width)[0]


def _hadamard_outer_order(width: int) -> int | None:
    """Order of the smallest dense factor of a Hadamard matrix of this width, if one is known."""
    smallest_outer, inner_order = _powers_of_two_inside(width)
    for order in (smallest_outer << power for power in range(inner_order.bit_length())):
        if order <= LARGEST_DENSE_ORDER and has_hadamard(order):
            return order
    return None


def identity_factors(width: int) -> KroneckerFactors:
    """The identity as Kronecker factors: outer of the odd part, inner of the power of two."""
    outer_order, inner_order = _powers_of_two_inside(width)
    return KroneckerFactors(np.eye(outer_order), np.eye(inner_order))


def random_orthogonal(
    order: int, rng: np.random.Generator, device: str = "cpu"
) -> NDArray[np.float64]:
    """A uniformly distributed orthogonal matrix, (order, order).

    Q of the QR decomposition of a Gaussian matrix, with the signs of R's diagonal moved into Q.
    Without that, the distribution depends on LAPACK's convention (Mezzadri, math-ph/0609050).
    """
    q, r = torch.linalg.qr(torch.from_numpy(rng.standard_normal((order, order))).to(device))
    q *= torch.where(r.diagonal() < 0, -1.0, 1.0)
    return np.asarray(q.cpu().numpy())


def random_signs(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Independent fair +-1, (count,)."""
    return rng.choice(np.array([-1.0, 1.0]), count)


def randomised_hadamard(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """diag(random signs) @ kron(outer, inner), dense and orthonormal, (width, width)."""
    signs = random_signs(width, rng)
    return signs[:, None] * kronecker_factors(width, rng).matrix()


Builder = Callable[[], NDArray[np.float64]]


@cache
def _construction(order: int) -> Builder | None:
    """A builder of this order, or None; decided without building the matrix."""
    if order == 1:
        return lambda: np.ones((1, 1))
    if order == 2:
        return lambda: np.array([[1.0, 1.0], [1.0, -1.0]])
    if order < 4 or order % 4:
        return None
    if order & (order - 1) == 0:
        return lambda: _product(2, order // 2)
    if (order - 1) % 4 == 3 and _is_prime(order - 1):
        return lambda: _paley_one(order - 1)
    if (order // 2 - 1) % 4 == 1 and _prime_or_square(order // 2 - 1):
        return lambda: _paley_two(order // 2 - 1)
    for left in range(2, order // 2 + 1):
        if order % left == 0 and has_hadamard(left) and has_hadamard(order // left):
            return lambda: _product(left, order // left)
    return None


def _product(left: int, right: int) -> NDArray[np.float64]:
    return np.asarray(np.kron(hadamard(left), hadamard(right)), np.float64)


def _powers_of_two_inside(width: int) -> tuple[int, int]:
    """Width as (outer, inner), inner being the largest allowed power of two that divides it."""
    inner = min(width & -width, LARGEST_INNER_ORDER)
    return width // inner, inner


def _sylvester_rotation(order: int) -> NDArray[np.float64]:
    return np.asarray(hadamard(order) / np.sqrt(order))


def _paley_one(q: int) -> NDArray[np.float64]:
    """Paley's first construction, order q + 1 for a prime q = 3 mod 4: I + S, S skew."""
    skew = np.zeros((q + 1, q + 1))
    skew[0, 1:], skew[1:, 0] = 1.0, -1.0
    skew[1:, 1:] = _jacobsthal(q)
    return np.asarray(np.eye(q + 1) + skew)


def _paley_two(q: int) -> NDArray[np.float64]:
    """Paley's second construction, order 2 (q + 1) for a prime power q = 1 mod 4.

    The symmetric conference matrix C (zero diagonal) has each entry replaced by a 2 x 2
    block: kron(C, [[1, 1], [1, -1]]) + kron(I, [[1, -1], [-1, -1]]).
    """
    conference = np.ones((q + 1, q + 1))
    conference[0, 0] = 0.0
    conference[1:, 1:] = _jacobsthal(q)
    off_diagonal = np.array([[1.0, 1.0], [1.0, -1.0]])
    on_diagonal = np.array([[1.0, -1.0], [-1.0, -1.0]])
    return np.asarray(np.kron(conference, off_diagonal) + np.kron(np.eye(q + 1), on_diagonal))


def _jacobsthal(q: int) -> NDArray[np.float64]:
    """Entry (a, b) is +1 if a - b is a non-zero square in the field of q elements, -1 if not.

    Elements of a field of p^2 elements are a + b * sqrt(n), n not a square modulo p. Such an
    element is a square if and only if its norm a^2 - n b^2 is a square modulo p.
    """
    prime = q if _is_prime(q) else round(q**0.5)
    character = np.full(prime, -1.0)
    character[np.arange(1, prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    first, second = np.arange(q) % prime, np.arange(q) // prime  # element = first + second√n
    first = first[:, None] - first[None, :]
    second = second[:, None] - second[None, :]
    if prime == q:
        return np.asarray(character[first % prime])
    non_square = int(np.flatnonzero(character < 0)[0])
    return np.asarray(character[(first**2 - non_square * second**2) % prime])


def _prime_or_square(q: int) -> bool:
    root = round(q**0.5)
    return _is_prime(q) or (root * root == q and root % 2 == 1 and _is_prime(root))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))
