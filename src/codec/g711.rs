//! G.711: logarithmic samples of 8 bits (ITU-T G.711).

/// A sample of mu-law.
pub(super) fn from_ulaw(code: u8) -> i16 {
    let code = !code;
    let (segment, step) = ((code & 0x70) >> 4, i16::from(code & 0x0f));
    let magnitude = (((step << 3) + 0x84) << segment) - 0x84;
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

/// A sample of A-law.
pub(super) fn from_alaw(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (segment, step) = ((code & 0x70) >> 4, i16::from(code & 0x0f));
    let magnitude = match segment {
        0 => (step << 4) + 8,
        segment => ((step << 4) + 0x108) << (segment - 1),
    };
    if code & 0x80 != 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_middle_are_where_the_standard_has_them() {
        let ulaw = [(0x00, -32124), (0x80, 32124), (0x7f, 0), (0xff, 0), (0xfe, 8), (0x0f, -16764)];
        for (code, sample) in ulaw {
            assert_eq!(from_ulaw(code), sample, "{code:#x}");
        }
        let alaw = [(0x2a, -32256), (0xaa, 32256), (0xd5, 8), (0x55, -8), (0x80, 5504)];
        for (code, sample) in alaw {
            assert_eq!(from_alaw(code), sample, "{code:#x}");
        }
    }
}
