"""SHA-256 continued from a digest: what makes `sha256(secret + data)` a weak signature.

FIPS 180-4. Only for showing that the forgery works, and that the gateway refuses it.
"""

import struct


def extend_sha256(digest: str, length: int, suffix: bytes) -> tuple[bytes, str]:
    """From sha256(secret) alone: padding p and digest of secret + p + suffix.

    `length`: bytes of the secret. FIPS 180-4, with the state taken from `digest`.
    """
    padding = b"\x80" + b"\x00" * ((55 - length) % 64) + struct.pack(">Q", length * 8)
    total = length + len(padding) + len(suffix)
    end = b"\x80" + b"\x00" * ((55 - total) % 64) + struct.pack(">Q", total * 8)
    state = list(struct.unpack(">8I", bytes.fromhex(digest)))
    data = suffix + end
    for at in range(0, len(data), 64):
        state = _compress(state, data[at : at + 64])
    return padding, struct.pack(">8I", *state).hex()


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def _cube_root(number: int) -> int:
    low, high = 0, 1 << 48
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= number else (low, middle - 1)
    return low


_MASK = 0xFFFFFFFF
_K = [_cube_root(prime << 96) & _MASK for prime in _primes(64)]


def _rotate(word: int, by: int) -> int:
    return (word >> by | word << (32 - by)) & _MASK


def _compress(state: list[int], block: bytes) -> list[int]:
    words = list(struct.unpack(">16I", block))
    for i in range(16, 64):
        x, y = words[i - 15], words[i - 2]
        s0 = _rotate(x, 7) ^ _rotate(x, 18) ^ x >> 3
        s1 = _rotate(y, 17) ^ _rotate(y, 19) ^ y >> 10
        words.append(words[i - 16] + s0 + words[i - 7] + s1 & _MASK)
    a, b, c, d, e, f, g, h = state
    for k, word in zip(_K, words, strict=True):
        s1 = _rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)
        t1 = h + s1 + (e & f ^ ~e & _MASK & g) + k + word
        s0 = _rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)
        t2 = s0 + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (t1 + t2) & _MASK, a, b, c, (d + t1) & _MASK, e, f, g
    return [(old + new) & _MASK for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)]
