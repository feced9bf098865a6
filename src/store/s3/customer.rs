//! Keys of the client for SSE-C: the service encrypts with them, and forgets them.
//!
//! **Invariant:** a key is in memory here, overwritten when it is dropped, and in the headers of requests;
//! neither it nor a part of it is in an error, a log or `Debug`.

use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;
use parking_lot::RwLock;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of a key (AES-256).
const KEY_BYTES: usize = 32;
/// What a key looks like in base64.
const KEY_CHARS: usize = 44;

/// One key, as requests carry it.
pub(super) struct CustomerKey {
    base64: Zeroizing<String>,
    /// MD5 of the 32 bytes, in base64: by this a service says which key it used.
    md5: String,
}

impl CustomerKey {
    fn parse(text: &str) -> Option<CustomerKey> {
        // One byte more is what the decoder wants room for.
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
        let fits = text.len() == KEY_CHARS;
        let decoded = fits.then(|| STANDARD.decode_slice(text, &mut *bytes).ok()).flatten()?;
        (decoded == KEY_BYTES).then(|| CustomerKey {
            base64: Zeroizing::new(text.to_owned()),
            md5: STANDARD.encode(md5::Md5::digest(&bytes[..KEY_BYTES])),
        })
    }

    /// For the one header that has it. The copy is not overwritten: the SDK makes more of them.
    pub(super) fn reveal(&self) -> String {
        self.base64.to_string()
    }

    pub(super) fn md5(&self) -> &str {
        &self.md5
    }
}

/// The keys of a target: the first encrypts what is written, any of them opens what is read. All clones
/// have the same, also when they come later.
#[derive(Clone)]
pub struct CustomerKeys(Arc<RwLock<Keys>>);

#[derive(Clone)]
struct Keys {
    keys: Arc<[Arc<CustomerKey>]>,
    /// Why there are none; else where they are from.
    told: Arc<str>,
    /// There are none yet.
    awaited: bool,
}

impl std::fmt::Debug for CustomerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.0.read();
        write!(f, "CustomerKeys({}, {:?})", keys.keys.len(), keys.told)
    }
}

impl CustomerKeys {
    fn of(keys: Vec<Arc<CustomerKey>>, told: &str) -> CustomerKeys {
        let keys = Keys { keys: keys.into(), told: told.into(), awaited: false };
        CustomerKeys(Arc::new(RwLock::new(keys)))
    }

    /// None, and why.
    pub fn none(why: &str) -> CustomerKeys {
        CustomerKeys::of(Vec::new(), why)
    }

    /// None yet, and why: some are to come by [`CustomerKeys::become_as`].
    pub fn awaited(why: &str) -> CustomerKeys {
        let none = CustomerKeys::none(why);
        none.0.write().awaited = true;
        none
    }

    /// From the text of a file: keys of 32 bytes in base64, one a line; empty lines and those that begin
    /// with `#` are passed over. `from`: its name.
    ///
    /// # Errors
    /// What is wrong with it, without a word of what is in it.
    pub fn parse(text: &[u8], from: &str) -> Result<CustomerKeys, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys = Vec::new();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let key = CustomerKey::parse(line).ok_or_else(|| {
                let number = at + 1;
                format!(
                    "line {number} is no key of 32 bytes in base64, such as `openssl rand -base64 32` prints"
                )
            })?;
            keys.push(Arc::new(key));
        }
        match keys.len() {
            0 => Err("there is no key in it".to_owned()),
            1..=limits::SSE_C_KEYS_MAX => Ok(CustomerKeys::of(keys, from)),
            many => {
                Err(format!("it has {many} keys, {} at most are tried", limits::SSE_C_KEYS_MAX))
            }
        }
    }

    /// From now on these, and all clones of them, are what `other` is.
    pub fn become_as(&self, other: &CustomerKeys) {
        let keys = other.0.read().clone();
        *self.0.write() = keys;
    }

    /// Why there are none; else where they are from.
    pub fn told(&self) -> Arc<str> {
        Arc::clone(&self.0.read().told)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.read().keys.is_empty()
    }

    /// Whether there are none yet.
    pub(super) fn are_awaited(&self) -> bool {
        self.0.read().awaited
    }

    pub(super) fn all(&self) -> Arc<[Arc<CustomerKey>]> {
        Arc::clone(&self.0.read().keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 zeros.
    const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn keys_are_lines_of_base64_and_nothing_of_a_wrong_one_is_told() {
        let text = format!("# the new one\n{ZEROS}\r\n\n  {ZEROS}\n");
        let keys = CustomerKeys::parse(text.as_bytes(), "sse_c_key_file /k").unwrap();
        assert_eq!(keys.all().len(), 2);
        // `head -c 32 /dev/zero | openssl md5 -binary | base64`
        assert_eq!(keys.all()[0].md5(), "cLyPS3KoaSFGi/joRB3OUQ==");
        assert_eq!(keys.all()[0].reveal(), ZEROS);
        assert!(!format!("{keys:?}").contains("AAAA"), "{keys:?}");
        let short = &ZEROS[4..];
        let many = format!("{ZEROS}\n").repeat(limits::SSE_C_KEYS_MAX + 1);
        for (text, said) in [
            (format!("{ZEROS}\nhunter2"), "line 2 is no key"),
            (short.to_owned(), "line 1 is no key"),
            (format!("{}B=", &ZEROS[..42]), "line 1 is no key"),
            ("# none\n".to_owned(), "there is no key in it"),
            (many, "it has 17 keys, 16 at most"),
        ] {
            let why = CustomerKeys::parse(text.as_bytes(), "f").unwrap_err();
            assert!(why.contains(said), "{why}");
            assert!(!why.contains("hunter2") && !why.contains("AAAA"), "{why}");
        }
    }

    #[test]
    fn keys_that_come_later_come_to_all_clones() {
        let none = CustomerKeys::none("a command has not answered yet");
        let clone = none.clone();
        assert!(clone.is_empty() && clone.told().contains("not answered"));
        none.become_as(&CustomerKeys::parse(ZEROS.as_bytes(), "f").unwrap());
        assert!(!clone.is_empty() && &*clone.told() == "f");
    }
}
