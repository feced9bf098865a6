//! Which files belong together: a recording with its sidecars and derivatives.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// The part of a name that a recording shares with its sidecars. Files of one directory with the
/// same stem are a group, and are released only together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stem(pub Vec<u8>);

/// Extensions that a recording or a sidecar may have, in lower case: Asterisk's file formats,
/// what VICIdial and post-scripts make of them, and what is put beside them.
const EXTENSIONS: &[&[u8]] = &[
    b"wav", b"wav16", b"wav49", b"gsm", b"ulaw", b"alaw", b"sln", b"sln16", b"sln32", b"sln48",
    b"raw", b"g722", b"g729", b"ilbc", b"siren7", b"siren14", b"mp3", b"ogg", b"opus", b"flac",
    b"m4a", b"txt", b"json", b"xml", b"csv", b"srt", b"vtt", b"md5", b"sha256", b"gpg", b"asc",
    b"gsw", b"ul", b"al", b"pcm", b"html",
];

/// Extensions of what can be played; what else stands beside a recording is none.
pub const AUDIO: &[&str] = &[
    "wav", "wav16", "wav49", "gsm", "ulaw", "alaw", "ul", "al", "pcm", "sln", "sln16", "sln32",
    "sln48", "raw", "g722", "g729", "mp3", "ogg", "opus", "flac", "m4a", "gsw",
];

/// Whether a name is that of something that can be played.
pub fn is_audio(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    AUDIO.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// What VICIdial and Monitor append to the name of a call (FIELD-NOTES: `-in`, `-out`, `-all`).
const ROLES: &[&[u8]] = &[b"-all", b"-in", b"-out", b"-r", b"-t"];

/// The stem of a file name: without known extensions (also several: `a.wav.txt`), then without
/// one role suffix (`-all`, `-in`, `-out`). A name that would become empty is its own stem.
pub fn stem(name: &[u8]) -> Stem {
    let mut rest = name;
    while let Some(dot) = rest.iter().rposition(|b| *b == b'.') {
        let (head, extension) = (&rest[..dot], &rest[dot + 1..]);
        if head.is_empty() || !EXTENSIONS.iter().any(|e| e.eq_ignore_ascii_case(extension)) {
            break;
        }
        rest = head;
    }
    let role = ROLES.iter().find(|r| rest.len() > r.len() && rest.ends_with(r));
    Stem(role.map_or(rest, |r| &rest[..rest.len() - r.len()]).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_and_derivatives_share_the_recordings_stem() {
        for group in [
            &["a.wav", "a.txt", "a.wav.txt", "a.WAV", "a"][..],
            &[
                "20241112-154014_3125551212-all.wav",
                "20241112-154014_3125551212.mp3",
                "20241112-154014_3125551212-in.wav",
                "20241112-154014_3125551212-out.wav",
            ],
        ] {
            for name in group {
                assert_eq!(stem(name.as_bytes()), stem(group[0].as_bytes()), "{name}");
            }
        }
    }

    #[test]
    fn a_uniqueid_is_not_an_extension() {
        assert_ne!(stem(b"in-3001-1795227886.0.wav"), stem(b"in-3001-1795227886.1.wav"));
        assert_eq!(stem(b".wav"), Stem(b".wav".to_vec()));
        assert_eq!(stem(b"-all"), Stem(b"-all".to_vec()));
    }
}
