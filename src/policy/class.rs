//! Storage classes of S3 (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html>).

use std::fmt;
use std::str::FromStr;

/// What `x-amz-storage-class` says of an object. Services have names of their own, so that any
/// word may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageClass(String);

impl StorageClass {
    /// The one that is read at once and kept in several places, in every service.
    pub fn standard() -> StorageClass {
        StorageClass("STANDARD".to_owned())
    }

    /// As it is written.
    pub fn word(&self) -> &str {
        &self.0
    }

    /// Whether an object must be restored by request before it can be read, which takes hours.
    pub fn is_cold(&self) -> bool {
        matches!(&*self.0, "GLACIER" | "DEEP_ARCHIVE")
    }
}

impl FromStr for StorageClass {
    type Err = ();

    fn from_str(text: &str) -> Result<StorageClass, ()> {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let is_word = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain);
        if is_word { Ok(StorageClass(text.to_owned())) } else { Err(()) }
    }
}

impl fmt::Display for StorageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Of several recordings' classes, which an object gets that may be any of these: where they are
/// not the same, the most available there is.
pub fn most_available(all: &[Option<StorageClass>]) -> Option<StorageClass> {
    let first = all.first()?;
    if all.iter().all(|one| one == first) { first.clone() } else { Some(StorageClass::standard()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_word_in_capitals() {
        for good in ["STANDARD", "GLACIER_IR", "COLDLINE", "T4"] {
            assert_eq!(good.parse::<StorageClass>().unwrap().word(), good);
        }
        for bad in ["", "standard", "A B", "A\r\nB", &"A".repeat(65)] {
            assert_eq!(bad.parse::<StorageClass>(), Err(()), "{bad:?}");
        }
        let cold = |word: &str| word.parse::<StorageClass>().unwrap().is_cold();
        assert!(cold("GLACIER") && cold("DEEP_ARCHIVE") && !cold("GLACIER_IR"));
    }

    #[test]
    fn what_may_be_of_several_classes_is_in_the_most_available() {
        let class = |word: &str| Some(word.parse::<StorageClass>().unwrap());
        assert_eq!(most_available(&[]), None);
        assert_eq!(most_available(&[None, None]), None);
        assert_eq!(most_available(&[class("GLACIER"), class("GLACIER")]), class("GLACIER"));
        assert_eq!(most_available(&[class("GLACIER"), None]), class("STANDARD"));
        let two = [class("GLACIER_IR"), class("GLACIER")];
        assert_eq!(most_available(&two), class("STANDARD"));
    }
}
