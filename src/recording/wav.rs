//! The sizes in the header of a recording whose call was cut.
//!
//! Asterisk writes a header with the sizes 0 when it begins to record, and the sizes when it ends.
//! If it dies between, every player takes the recording for empty. What it would have written
//! follows from the length of the file (Asterisk 22, `formats/format_wav.c` and
//! `formats/format_wav_gsm.c`, `update_header`).

/// Bytes of a recording that tell whether its sizes are lacking.
pub const HEADER_BYTES: usize = 60;

/// Header of 16-bit PCM (`.wav`, `.wav16`): data from byte 44 on.
const PCM_DATA: u32 = 44;
/// Header of GSM in blocks of two frames (`.WAV`): data from byte 60 on.
const GSM_DATA: u32 = 60;
/// A GSM block, and the samples in it.
const GSM_BLOCK: (u32, u32) = (65, 320);

/// The sizes that the header of a recording of `len` bytes lacks: the offset of each field, and
/// its four bytes. Empty, if it is no recording of Asterisk, or if any of its sizes is not 0.
pub fn lacking_sizes(header: &[u8], len: u64) -> Vec<(u64, [u8; 4])> {
    sizes(header, len).unwrap_or_default()
}

fn sizes(header: &[u8], len: u64) -> Option<Vec<(u64, [u8; 4])>> {
    let len = u32::try_from(len).ok()?;
    let is = |at: usize, what: &[u8]| header.get(at..at + what.len()) == Some(what);
    if !is(0, b"RIFF") || !is(8, b"WAVEfmt ") {
        return None;
    }
    let le = |at: usize| {
        let four = header.get(at..at + 4)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*four))
    };
    let format = header.get(20..22)?;
    let (data, fields) = match (le(16)?, format) {
        (16, [1, 0]) if is(36, b"data") => {
            let bytes = len.checked_sub(PCM_DATA)?;
            (bytes, vec![(4, len - 8), (40, bytes)])
        }
        (20, [0x31, 0]) if is(40, b"fact") && le(44)? == 4 && is(52, b"data") => {
            // 40: "fact", its length, the samples.
            let bytes = len.checked_sub(GSM_DATA)?;
            let samples = bytes / GSM_BLOCK.0 * GSM_BLOCK.1;
            (bytes, vec![(4, len - 8), (48, samples), (56, bytes)])
        }
        _ => return None,
    };
    let all_zero = fields.iter().all(|(at, _)| le(*at) == Some(0));
    let written = |(at, value): (usize, u32)| (at as u64, value.to_le_bytes());
    (all_zero && data > 0).then(|| fields.into_iter().map(written).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(path: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
        std::fs::read(format!("{dir}{path}")).unwrap()
    }

    const CUT: &str = "crashed/in-3001-02079460001-20261121-022819-1795228099.0.wav";
    const GSM: &str = "formats/in-3001-02079460001-20261121-022738-1795228058.0.WAV";
    const WIDE: &str = "formats/in-3001-02079460001-20261121-022745-1795228065.0.wav16";

    fn lacking(bytes: &[u8]) -> Vec<(u64, [u8; 4])> {
        lacking_sizes(&bytes[..bytes.len().min(HEADER_BYTES)], bytes.len() as u64)
    }

    fn wipe(mut bytes: Vec<u8>, fields: &[usize]) -> Vec<u8> {
        fields.iter().for_each(|at| bytes[*at..at + 4].fill(0));
        bytes
    }

    #[test]
    fn a_cut_call_lacks_the_sizes_that_follow_from_its_length() {
        let cut = fixture(CUT);
        let len = u32::try_from(cut.len()).unwrap();
        let expected = vec![(4, (len - 8).to_le_bytes()), (40, (len - 44).to_le_bytes())];
        assert_eq!(lacking(&cut), expected);
    }

    #[test]
    fn what_asterisk_wrote_itself_is_what_would_be_written() {
        for (path, fields) in [(GSM, vec![4, 48, 56]), (WIDE, vec![4, 40])] {
            let whole = fixture(path);
            assert_eq!(lacking(&whole), vec![], "{path}: its sizes are there");
            let mut cut = wipe(whole.clone(), &fields);
            let found = lacking(&cut);
            assert_eq!(found.len(), fields.len(), "{path}");
            for (at, bytes) in found {
                let at = usize::try_from(at).unwrap();
                cut[at..at + 4].copy_from_slice(&bytes);
            }
            assert_eq!(cut, whole, "{path}");
        }
    }

    #[test]
    fn nothing_is_lacking_if_any_size_is_there() {
        for (path, fields) in [(GSM, vec![4, 48, 56]), (WIDE, vec![4, 40])] {
            for kept in &fields {
                let others: Vec<usize> = fields.iter().copied().filter(|f| f != kept).collect();
                assert_eq!(lacking(&wipe(fixture(path), &others)), vec![], "{path} {kept}");
            }
        }
    }

    #[test]
    fn other_files_lack_nothing() {
        let cut = fixture(CUT);
        let header = &cut[..44];
        assert_eq!(lacking(header), vec![], "there is no audio");
        for len in 0..44 {
            assert_eq!(lacking(&cut[..len]), vec![], "{len}");
        }
        for at in [0, 8, 12, 16, 20, 36] {
            let mut other = cut.clone();
            other[at] ^= 1;
            assert_eq!(lacking(&other), vec![], "{at}");
        }
        assert_eq!(lacking_sizes(header, u64::from(u32::MAX) + 1), vec![], "too long for a WAV");
        assert_eq!(lacking(b"RIFX"), vec![]);
    }
}
