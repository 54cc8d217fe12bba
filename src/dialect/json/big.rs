//! Whole numbers beyond 64 bits: decimal digits there, CBOR bignums (RFC 8949 section 3.4.3) here.

use std::fmt::Write;

use crate::wire::cbor;
use crate::wire::command::NUMBER_MAX;

/// Longest magnitude that is written as digits, in bytes. Turning digits into bits is quadratic work.
pub(super) const BIG_BYTES_MAX: usize = 128;
/// The digits of 2^1024.
const DIGITS_MAX: usize = 309;
/// The tags of bignums from 0 and below 0.
pub(super) const TAGS: [u64; 2] = [2, 3];

/// Writes decimal digits as a CBOR integer, or as a bignum where they need one.
pub(super) fn put_decimal(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    if digits.len() > DIGITS_MAX {
        return None;
    }
    let mut bytes = magnitude(digits);
    let negative = negative && !bytes.is_empty();
    if negative {
        // CBOR's negative numbers are -1 - n.
        for byte in bytes.iter_mut().rev() {
            let (less, borrow) = byte.overflowing_sub(1);
            *byte = less;
            if !borrow {
                break;
            }
        }
    }
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let bytes = &bytes[zeros..];
    match bytes.len() {
        0..=8 => {
            let argument = bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
            cbor::put_int(out, negative, argument);
        }
        9..=BIG_BYTES_MAX => {
            cbor::put_tag(out, TAGS[usize::from(negative)]);
            cbor::put_bytes(out, bytes);
        }
        _ => return None,
    }
    Some(())
}

/// Big-endian bytes of decimal digits.
fn magnitude(digits: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u16::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            let value = u16::from(*byte) * 10 + carry;
            [_, *byte] = value.to_be_bytes();
            carry = value >> 8;
        }
        if let [_, more @ 1..=255] = carry.to_be_bytes() {
            bytes.insert(0, more);
        }
    }
    bytes
}

/// The decimal digits of a bignum, and whether every JSON reader keeps such a number exactly.
pub(super) fn decimal(negative: bool, bytes: &[u8]) -> (String, bool) {
    let mut limbs: Vec<u8> = bytes.to_vec();
    if negative {
        let carried = limbs.iter_mut().rev().all(|byte| {
            let (more, carry) = byte.overflowing_add(1);
            *byte = more;
            carry
        });
        if carried {
            limbs.insert(0, 1);
        }
    }
    // Nine digits at a time, the lowest first.
    let mut groups: Vec<u64> = Vec::new();
    while limbs.iter().any(|b| *b != 0) {
        let mut rest = 0_u64;
        for byte in &mut limbs {
            let value = rest << 8 | u64::from(*byte);
            // `rest` is below the divisor, so this fits into the byte.
            [.., *byte] = (value / 1_000_000_000).to_be_bytes();
            rest = value % 1_000_000_000;
        }
        groups.push(rest);
    }
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    text.push_str(&groups.pop().unwrap_or(0).to_string());
    for group in groups.iter().rev() {
        // Writing into memory does not fail.
        let _ = write!(text, "{group:09}");
    }
    let exact = text.trim_start_matches('-').parse().is_ok_and(|n: u64| n <= NUMBER_MAX);
    (text, exact)
}
