//! The CRC-64/XZ of two texts in a row, from the CRC of each.
//!
//! The `crc-fast` crate can do this too, by squaring matrices at each call: some 40,000 steps a
//! piece, where multiplying polynomials with kept powers takes a thousand.

use std::sync::LazyLock;

/// The polynomial of CRC-64/XZ (ECMA-182), reflected: bit 63 is the coefficient of 1.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
/// The polynomial 1.
const ONE: u64 = 1 << 63;

/// `x^(8 * 2^k)` modulo the polynomial: what `2^k` further bytes do to a CRC.
static POWERS: LazyLock<[u64; 64]> = LazyLock::new(|| {
    let mut power = ONE >> 8;
    std::array::from_fn(|_| {
        let this = power;
        power = multiply(power, power);
        this
    })
});

/// The product of two polynomials, modulo ours.
fn multiply(a: u64, b: u64) -> u64 {
    let (mut product, mut shifted) = (0, b);
    let mut mask = ONE;
    while mask != 0 {
        if a & mask != 0 {
            product ^= shifted;
        }
        let carry = if shifted & 1 == 1 { POLYNOMIAL } else { 0 };
        shifted = (shifted >> 1) ^ carry;
        mask >>= 1;
    }
    product
}

/// The CRC of a text of CRC `first` followed by one of CRC `second` and `second_bytes` bytes.
#[must_use]
pub fn combine(first: u64, second: u64, second_bytes: u64) -> u64 {
    let mut moved = first;
    let mut left = second_bytes;
    for power in POWERS.iter() {
        if left == 0 {
            break;
        }
        if left & 1 == 1 {
            moved = multiply(*power, moved);
        }
        left >>= 1;
    }
    // the initial value and the final complement of CRC-64/XZ cancel each other out
    moved ^ second
}

#[cfg(test)]
mod tests {
    use crc_fast::{CrcAlgorithm::Crc64Xz, checksum};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_halves_give_the_crc_of_the_whole(text: Vec<u8>, cut: prop::sample::Index) {
            let (head, tail) = text.split_at(cut.index(text.len() + 1));
            let both = combine(checksum(Crc64Xz, head), checksum(Crc64Xz, tail), tail.len() as u64);
            prop_assert_eq!(both, checksum(Crc64Xz, &text));
        }

        #[test]
        fn it_agrees_with_the_crate_for_texts_of_any_length(a: u64, b: u64, bytes: u64) {
            prop_assert_eq!(combine(a, b, bytes), crc_fast::checksum_combine(Crc64Xz, a, b, bytes));
        }
    }

    #[test]
    fn nothing_has_the_crc_that_a_span_begins_with() {
        assert_eq!(checksum(Crc64Xz, b""), 0);
        assert_eq!(combine(0, checksum(Crc64Xz, b"a line\n"), 7), checksum(Crc64Xz, b"a line\n"));
    }
}
