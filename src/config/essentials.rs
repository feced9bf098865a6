//! The few keys that must be found also in a configuration that is broken: an emergency can not
//! wait for a comma.

use super::check::default_runtime_dir;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What an emergency needs to know. Nothing about it has been checked, no path was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Essentials {
    /// The recordings directory.
    pub mountpoint: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    /// The key of the local disk's encryption.
    pub local_key_file: Option<PathBuf>,
}

impl Essentials {
    /// Takes what can be had of the file and of the variables of this process, which win.
    ///
    /// # Errors
    /// The file can not be read, and the variables alone do not name the mount point.
    pub fn load(file: &Path) -> std::io::Result<Essentials> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let from_file = Essentials::of(text.as_deref().unwrap_or_default());
        let all = Essentials {
            mountpoint: variable("SPOOLFS_MOUNTPOINT").or(from_file.mountpoint),
            state_dir: variable("SPOOLFS_STATE_DIR").or(from_file.state_dir),
            runtime_dir: variable("SPOOLFS_RUNTIME_DIR").or(from_file.runtime_dir),
            local_key_file: variable("SPOOLFS_ENCRYPTION__LOCAL_KEY_FILE")
                .or(from_file.local_key_file),
        };
        match text {
            Err(error) if all.mountpoint.is_none() => Err(error),
            _ => Ok(all),
        }
    }

    fn of(text: &str) -> Essentials {
        let table = toml::from_str(text).unwrap_or_else(|_| line_by_line(text));
        let path_in = |table: &Table, key: &str| {
            table.get(key).and_then(Value::as_str).filter(|p| p.starts_with('/')).map(PathBuf::from)
        };
        let path = |key: &str| path_in(&table, key);
        let encryption = table.get("encryption").and_then(Value::as_table);
        Essentials {
            mountpoint: path("mountpoint"),
            state_dir: path("state_dir"),
            runtime_dir: path("runtime_dir"),
            local_key_file: encryption
                .and_then(|table| path_in(table, "local_key_file"))
                .or_else(|| path("local_key_file")),
        }
    }

    /// Where the daemon keeps what is lost at power-off.
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        let usual = || self.state_dir.as_deref().map(default_runtime_dir);
        self.runtime_dir.clone().or_else(usual)
    }
}

/// What the lines above the first table say, each by itself, and the one line of another table
/// that is needed; there is no other of its name.
fn line_by_line(text: &str) -> Table {
    let top = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let key = text.lines().filter(|line| line.trim_start().starts_with("local_key_file"));
    top.chain(key).filter_map(|line| toml::from_str::<Table>(line).ok()).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_still_names_the_mount_point() {
        let monitor = Some(PathBuf::from("/srv/a b"));
        for text in [
            "mountpoint = \"/srv/a b\"\nstate_dir = \"/var/lib/spoolfs/x\"",
            "unknown = 1\nmountpoint = '/srv/a b' # here\n[[target]]\nurl = 7",
            "mountpoint = \"/srv/a b\"\nnode = pbx 1\n[target\nmountpoint = \"/else\"",
        ] {
            assert_eq!(Essentials::of(text).mountpoint, monitor, "{text}");
        }
        for text in ["", "[x]\nmountpoint = \"/srv\"", "mountpoint = 3", "mountpoint = \"srv\""] {
            assert_eq!(Essentials::of(text).mountpoint, None, "{text}");
        }
    }

    #[test]
    fn the_key_of_the_disk_is_found_in_a_broken_file_too() {
        for text in [
            "[encryption]\nlocal_key_file = \"/etc/key\"",
            "node = pbx 1\n[encryption]\nlocal_key_file = \"/etc/key\" # here",
        ] {
            assert_eq!(Essentials::of(text).local_key_file, Some("/etc/key".into()), "{text}");
        }
        assert_eq!(Essentials::of("[encryption]").local_key_file, None);
    }

    #[test]
    fn the_runtime_directory_is_the_configured_or_the_usual() {
        let usual = Essentials::of("state_dir = \"/var/lib/spoolfs/x\"");
        assert_eq!(usual.runtime_dir(), Some("/run/spoolfs/x".into()));
        let own = Essentials::of("state_dir = \"/var/lib/spoolfs/x\"\nruntime_dir = \"/run/y\"");
        assert_eq!(own.runtime_dir(), Some("/run/y".into()));
        assert_eq!(Essentials::of("").runtime_dir(), None);
    }
}
