//! Whether what lies below a directory is an encrypted disk: dm-crypt, as the kernel's own tables
//! tell (/proc/self/mountinfo, /sys/dev/block, /sys/fs/btrfs).

use rustix::fs::{AtFlags, StatxFlags};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// How `dm/uuid` begins of a disk that cryptsetup encrypts. Others begin with `CRYPT-` as well that
/// only verify what is read.
const ENCRYPTED: [&str; 6] = [
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-TCRYPT-",
    "CRYPT-BITLK-",
    "CRYPT-LOOPAES-",
];
/// Devices below devices are looked at to this depth.
const DEPTH_MAX: usize = 16;

/// Where the kernel tells of disks. Tests have one of their own.
#[derive(Clone, Debug)]
pub struct Tables {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc/self/mountinfo`.
    pub mounts: PathBuf,
}

impl Default for Tables {
    fn default() -> Tables {
        Tables { sys: "/sys".into(), mounts: "/proc/self/mountinfo".into() }
    }
}

/// Whether a directory is on encrypted disks and nothing else.
///
/// # Errors
/// Why it is not, or why that is not known.
pub fn encrypted(tables: &Tables, dir: impl AsFd) -> Result<(), String> {
    let asked = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, asked)
        .map_err(|errno| format!("it can not be looked at: {errno}"))?;
    device_encrypted(tables, (stat.stx_dev_major, stat.stx_dev_minor), stat.stx_mnt_id)
}

fn device_encrypted(tables: &Tables, device: (u32, u32), mount: u64) -> Result<(), String> {
    let (major, minor) = device;
    if major != 0 {
        let path = tables.sys.join(format!("dev/block/{major}:{minor}"));
        return block_device(&path, DEPTH_MAX);
    }
    // Not a disk's own number: a file system over several disks, over others, or over none.
    let (kind, source) = mounted(tables, mount).ok_or("what it is mounted from is not known")?;
    if kind == "btrfs" {
        return btrfs(tables, &source);
    }
    Err(format!("it is on {kind}, of which spoolfs can not tell whether it is encrypted"))
}

/// Kind and source of a mount: the fields after the dash (proc_pid_mountinfo(5)).
fn mounted(tables: &Tables, mount: u64) -> Option<(String, String)> {
    let text = fs::read(&tables.mounts).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find(|line| line.split(' ').next().and_then(|id| id.parse::<u64>().ok()) == Some(mount))?;
    let mut fields = line.split(' ').skip_while(|field| *field != "-").skip(1);
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// All disks of the btrfs that has `source` among them.
fn btrfs(tables: &Tables, source: &str) -> Result<(), String> {
    let unknown = || format!("the disks of the btrfs on {source} are not known");
    let name = fs::canonicalize(source).unwrap_or_else(|_| source.into());
    let name = name.file_name().ok_or_else(unknown)?;
    let systems = fs::read_dir(tables.sys.join("fs/btrfs")).map_err(|_| unknown())?;
    let ours = systems
        .flatten()
        .map(|entry| entry.path().join("devices"))
        .find(|devices| devices.join(name).symlink_metadata().is_ok());
    all_in(&ours.ok_or_else(unknown)?, DEPTH_MAX).ok_or_else(unknown)?
}

/// Every device that a directory of links names; `None` if there is none.
fn all_in(dir: &Path, depth: usize) -> Option<Result<(), String>> {
    let links: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|link| link.path()).collect();
    let first = links.iter().map(|link| block_device(link, depth)).find(Result::is_err);
    (!links.is_empty()).then(|| first.unwrap_or(Ok(())))
}

/// A device of /sys/dev/block: encrypted itself, or made of what is.
fn block_device(link: &Path, depth: usize) -> Result<(), String> {
    let unknown = |_| format!("{} can not be looked at", link.display());
    let path = fs::canonicalize(link).map_err(unknown)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plain = || Err(format!("it is on /dev/{name}, which is not encrypted"));
    let Some(deeper) = depth.checked_sub(1) else { return plain() };
    let uuid = fs::read_to_string(path.join("dm/uuid")).unwrap_or_default();
    if ENCRYPTED.iter().any(|kind| uuid.starts_with(kind)) {
        return Ok(());
    }
    // A partition has no devices below it, but its disk may.
    let of_disk = path.join("partition").exists().then(|| path.parent()).flatten();
    if let Some(disk) = of_disk {
        return block_device(disk, deeper).or_else(|_| plain());
    }
    all_in(&path.join("slaves"), deeper).unwrap_or_else(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A /sys with devices: number, path below `devices`, dm/uuid, what it is made of.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Sys {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("dev/block")).unwrap();
            fs::create_dir_all(dir.path().join("fs/btrfs")).unwrap();
            Sys(dir)
        }

        fn device(&self, number: &str, path: &str, uuid: Option<&str>, of: &[&str]) {
            let device = self.0.path().join("devices").join(path);
            fs::create_dir_all(device.join("slaves")).unwrap();
            for below in of {
                let name = Path::new(below).file_name().unwrap();
                let to = self.0.path().join("devices").join(below);
                symlink(to, device.join("slaves").join(name)).unwrap();
            }
            if let Some(uuid) = uuid {
                fs::create_dir(device.join("dm")).unwrap();
                fs::write(device.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            }
            symlink(&device, self.0.path().join("dev/block").join(number)).unwrap();
        }

        fn partition(&self, number: &str, path: &str) {
            self.device(number, path, None, &[]);
            fs::write(self.0.path().join("devices").join(path).join("partition"), "1\n").unwrap();
        }

        fn asked(&self, device: (u32, u32)) -> Result<(), String> {
            let mounts = self.0.path().join("mountinfo");
            let text = "40 1 0:50 / /b rw - btrfs /dev/dm-1 rw\n\
                        41 1 0:51 / /t rw shared:1 - tmpfs tmpfs rw\n\
                        42 1 0:52 / /c rw - btrfs /dev/sdz1 rw\n";
            fs::write(&mounts, text).unwrap();
            let tables = Tables { sys: self.0.path().to_owned(), mounts };
            device_encrypted(&tables, device, 40 + u64::from(device.1.saturating_sub(50)))
        }
    }

    #[test]
    fn dm_crypt_is_found_below_partitions_volumes_and_raids() {
        let sys = Sys::new();
        sys.device("8:0", "sda", None, &[]);
        sys.partition("8:1", "sda/sda1");
        let luks = "CRYPT-LUKS2-0123456789abcdef-root";
        sys.device("253:0", "dm-0", Some(luks), &["sda/sda1"]);
        sys.device("253:1", "dm-1", Some("LVM-abc"), &["dm-0"]);
        sys.device("253:2", "dm-2", Some("LVM-def"), &["dm-0", "sda/sda1"]);
        sys.device("253:3", "dm-3", Some("CRYPT-VERITY-0123-root"), &["sda/sda1"]);
        sys.device("9:0", "md0", None, &["dm-1", "dm-0"]);
        sys.partition("259:1", "md0/md0p1");

        for device in [(253, 0), (253, 1), (9, 0), (259, 1)] {
            assert_eq!(sys.asked(device), Ok(()), "{device:?}");
        }
        for (device, why) in [
            ((8, 0), "/dev/sda, which is not encrypted"),
            ((8, 1), "/dev/sda1, which is not encrypted"),
            // One of its two disks is not.
            ((253, 2), "/dev/sda1, which is not encrypted"),
            // Verified, not encrypted.
            ((253, 3), "/dev/sda1, which is not encrypted"),
            ((7, 7), "can not be looked at"),
        ] {
            let said = sys.asked(device).unwrap_err();
            assert!(said.contains(why), "{device:?}: {said}");
        }
    }

    #[test]
    fn file_systems_without_a_disk_of_their_own_are_told_apart() {
        let sys = Sys::new();
        sys.device("8:1", "sdz1", None, &[]);
        sys.device("253:1", "dm-1", Some("CRYPT-LUKS2-01-a"), &["sdz1"]);
        let devices = sys.0.path().join("fs/btrfs/1234/devices");
        fs::create_dir_all(&devices).unwrap();
        symlink(sys.0.path().join("devices/dm-1"), devices.join("dm-1")).unwrap();
        assert_eq!(sys.asked((0, 50)), Ok(()));
        assert!(sys.asked((0, 51)).unwrap_err().contains("it is on tmpfs"));
        assert!(sys.asked((0, 52)).unwrap_err().contains("not known"));
        // A second disk that is not encrypted.
        symlink(sys.0.path().join("devices/sdz1"), devices.join("sdz1")).unwrap();
        assert!(sys.asked((0, 50)).unwrap_err().contains("/dev/sdz1, which is not encrypted"));
    }
}
