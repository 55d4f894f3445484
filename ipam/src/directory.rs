//! A network's directory: one file an address, which is the truth about who has it.

use std::{
    fs::{File, FileTimes},
    io::{self, Read, Write},
    net::IpAddr,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, linkat, mkdirat, openat, unlinkat},
    io::Errno,
};

use crate::{boot::mtime_of, mortal::about_to_change};

#[derive(Debug)]
pub(crate) struct Directory {
    file: File,
    path: PathBuf,
}

/// What tells one state of a directory from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
}

/// A reservation's file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content: Vec<u8>,
    pub(crate) mtime: i64,
}

impl Directory {
    /// Nothing where there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        match openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(Self {
                file: fd.into(),
                path: path.to_owned(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    pub(crate) fn create(path: &Path) -> io::Result<()> {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.exists()) {
            Self::create(parent)?;
        }
        about_to_change()?;
        match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, address: IpAddr) -> PathBuf {
        self.path.join(address.to_string())
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        let file = self.file.metadata()?;
        let ctime = file
            .ctime()
            .saturating_mul(1_000_000_000)
            .saturating_add(file.ctime_nsec());
        Ok(Identity {
            device: file.dev(),
            inode: file.ino(),
            mtime: mtime_of(&file),
            ctime,
        })
    }

    /// Whether it still has a name, and is not just still open here.
    pub(crate) fn is_there(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    /// Gives it a time that nobody else's change can give it: the kernel's clock ticks too coarsely
    /// to hit a nanosecond of our choice.
    pub(crate) fn stamp(&self, mtime: i64) -> io::Result<()> {
        about_to_change()?;
        let time = UNIX_EPOCH + Duration::from_nanos(mtime.unsigned_abs());
        self.file.set_times(FileTimes::new().set_modified(time))
    }

    /// Whether it is surely this machine's own: on a shared one, the reservations that are not of
    /// this boot may be another machine's.
    pub(crate) fn is_local(&self) -> bool {
        rustix::fs::fstatfs(&self.file).is_ok_and(|fs| LOCAL.contains(&fs.f_type.cast_unsigned()))
    }

    /// Shows everything that is named as an address; what else lies here is somebody else's
    /// business.
    pub(crate) fn each_address(
        &self,
        mut show: impl FnMut(IpAddr) -> io::Result<()>,
    ) -> io::Result<()> {
        for entry in Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = entry.file_name().to_str().unwrap_or_default();
            if let Some(address) = parse_name(name) {
                show(address)?;
            }
        }
        Ok(())
    }

    pub(crate) fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        self.each_address(|address| {
            addresses.push(address);
            Ok(())
        })?;
        Ok(addresses)
    }

    pub(crate) fn lock_file(&self, create: bool) -> io::Result<Option<File>> {
        let create = if create {
            OFlags::CREATE
        } else {
            OFlags::empty()
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | create;
        match openat(&self.file, "lock", flags, Mode::from_raw_mode(0o750)) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) if create.is_empty() => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    /// Nothing where there is no such file.
    pub(crate) fn read(&self, address: IpAddr) -> io::Result<Option<Found>> {
        self.read_named(&address.to_string())
    }

    fn read_named(&self, name: &str) -> io::Result<Option<Found>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match openat(&self.file, name, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Some(Found::no_file())),
            Err(why) => return Err(why.into()),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Ok(Some(Found::no_file()));
        }
        let mut start = [0; USUAL_CONTENT];
        let length = (&file).read(&mut start)?;
        let mut content = start[..length].to_vec();
        // A file is read as far as there is room, so this was all unless there was none left.
        if length == start.len() {
            file.take(LARGEST_CONTENT).read_to_end(&mut content)?;
        }
        Ok(Some(Found {
            content,
            mtime: mtime_of(&about),
        }))
    }

    /// Makes the file with all its content, or not at all; says its time, or nothing if there is
    /// one of that name already.
    pub(crate) fn reserve(&self, address: IpAddr, content: &str) -> io::Result<Option<i64>> {
        match self.reserve_nameless(address, content) {
            // These are how a file system says that it has no files without a name, and the last
            // how it is to have no /proc.
            Err(why)
                if [Errno::OPNOTSUPP, Errno::ISDIR, Errno::INVAL, Errno::NOENT]
                    .map(Errno::raw_os_error)
                    .map(Some)
                    .contains(&why.raw_os_error()) =>
            {
                self.reserve_by_name(address, content)
            }
            done => done,
        }
    }

    fn reserve_nameless(&self, address: IpAddr, content: &str) -> io::Result<Option<i64>> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file: File = openat(&self.file, ".", flags, PRIVATE)?.into();
        file.write_all(content.as_bytes())?;
        about_to_change()?;
        let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(
            CWD,
            nameless,
            &self.file,
            address.to_string(),
            AtFlags::SYMLINK_FOLLOW,
        ) {
            Ok(()) => Ok(Some(mtime_of(&file.metadata()?))),
            Err(Errno::EXIST) => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    fn reserve_by_name(&self, address: IpAddr, content: &str) -> io::Result<Option<i64>> {
        // One who died may have left it; under the lock nobody else is using it.
        self.remove_named(TEMPORARY)?;
        about_to_change()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file: File = openat(&self.file, TEMPORARY, flags, PRIVATE)?.into();
        let linked = file.write_all(content.as_bytes()).and_then(|()| {
            about_to_change()?;
            match linkat(
                &self.file,
                TEMPORARY,
                &self.file,
                address.to_string(),
                AtFlags::empty(),
            ) {
                Ok(()) => Ok(Some(mtime_of(&file.metadata()?))),
                Err(Errno::EXIST) => Ok(None),
                Err(why) => Err(why.into()),
            }
        });
        self.remove_named(TEMPORARY)?;
        linked
    }

    pub(crate) fn remove(&self, address: IpAddr) -> io::Result<()> {
        self.remove_named(&address.to_string())
    }

    /// What a process that died may have left, other than reservations.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        self.remove_named(TEMPORARY)
    }

    fn remove_named(&self, name: &str) -> io::Result<()> {
        about_to_change()?;
        match unlinkat(&self.file, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    /// The address that the set with this number yielded last. A hint, no more: whatever it says,
    /// only whose turn is next depends on it.
    pub(crate) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        let found = self.read_named(&last_reserved_name(set)).ok()??;
        str::from_utf8(&found.content).ok()?.parse().ok()
    }

    /// In one write where the text is no shorter than the last, so that there is no moment at which
    /// the file is empty.
    pub(crate) fn set_last_reserved(&self, set: usize, address: IpAddr) -> io::Result<()> {
        about_to_change()?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file: File = openat(&self.file, last_reserved_name(set), flags, PRIVATE)?.into();
        let text = address.to_string();
        file.write_all(text.as_bytes())?;
        let length = text.len() as u64;
        if file.metadata()?.len() > length {
            about_to_change()?;
            file.set_len(length)?;
        }
        Ok(())
    }
}

impl Found {
    /// What some person has put here for some purpose.
    fn no_file() -> Self {
        Self {
            content: b"/".to_vec(),
            mtime: 0,
        }
    }
}

/// Addresses are written in one way only, and another way of writing is no reservation.
fn parse_name(name: &str) -> Option<IpAddr> {
    let address: IpAddr = name.parse().ok()?;
    (address.to_string() == name).then_some(address)
}

fn last_reserved_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

/// ext2 to 4, xfs, btrfs, tmpfs, overlay, f2fs, zfs, bcachefs: their numbers of `linux/magic.h`.
const LOCAL: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const TEMPORARY: &str = ".weft.new";
const USUAL_CONTENT: usize = 256;
/// More than any variable of an environment can hold.
const LARGEST_CONTENT: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::testing::Scratch;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn directory(scratch: &Scratch) -> Directory {
        Directory::open(scratch.path()).unwrap().unwrap()
    }

    #[test]
    fn a_reservation_is_made_once_and_whole_in_either_way() {
        let scratch = Scratch::new();
        let directory = directory(&scratch);
        let ways = [Directory::reserve_nameless, Directory::reserve_by_name];
        for (way, address) in ways.into_iter().zip([ip("10.0.0.2"), ip("fd99::5")]) {
            let mtime = way(&directory, address, "c1\r\neth0").unwrap().unwrap();
            assert_eq!(way(&directory, address, "c2\r\neth0").unwrap(), None);
            let found = directory.read(address).unwrap().unwrap();
            assert_eq!(
                (found.content.as_slice(), found.mtime),
                (&b"c1\r\neth0"[..], mtime)
            );
            let file = scratch.path().join(address.to_string()).metadata().unwrap();
            assert_eq!(
                (file.permissions().mode() & 0o777, file.nlink()),
                (0o600, 1)
            );
        }
        let mut addresses = directory.addresses().unwrap();
        addresses.sort();
        assert_eq!(addresses, [ip("10.0.0.2"), ip("fd99::5")]);
        assert_eq!(
            fs::read_dir(scratch.path()).unwrap().count(),
            2,
            "and nothing else"
        );
    }

    #[test]
    fn a_directory_of_that_name_is_no_free_address() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path().join("10.0.0.2")).unwrap();
        assert_eq!(
            directory(&scratch).reserve(ip("10.0.0.2"), "x").unwrap(),
            None
        );
    }

    #[test]
    fn a_stamp_can_be_told_from_any_change() {
        let scratch = Scratch::new();
        let directory = directory(&scratch);
        for _ in 0..100 {
            let stamp = crate::boot::now().unwrap();
            directory.stamp(stamp).unwrap();
            assert_eq!(directory.identity().unwrap().mtime, stamp);
            directory.reserve(ip("10.0.0.2"), "c").unwrap();
            assert_ne!(directory.identity().unwrap().mtime, stamp);
            directory.stamp(stamp).unwrap();
            directory.remove(ip("10.0.0.2")).unwrap();
            assert_ne!(directory.identity().unwrap().mtime, stamp);
        }
    }

    #[test]
    fn the_last_address_is_overwritten_whatever_its_length() {
        let scratch = Scratch::new();
        let directory = directory(&scratch);
        assert_eq!(directory.last_reserved(0), None);
        for text in ["10.0.0.2", "fd99:1234::5678", "10.0.0.10", "1.2.3.4"] {
            directory.set_last_reserved(0, ip(text)).unwrap();
            assert_eq!(
                fs::read_to_string(scratch.path().join("last_reserved_ip.0")).unwrap(),
                text
            );
            assert_eq!(directory.last_reserved(0), Some(ip(text)));
        }
        fs::write(scratch.path().join("last_reserved_ip.0"), "").unwrap();
        assert_eq!(directory.last_reserved(0), None);
    }

    #[test]
    fn only_names_as_the_plugins_write_them_are_addresses() {
        assert_eq!(parse_name("10.0.0.2"), Some(ip("10.0.0.2")));
        assert_eq!(parse_name("fd99::5"), Some(ip("fd99::5")));
        for other in [
            "FD99::5",
            "fd99:0::5",
            "010.0.0.2",
            "lock",
            "last_reserved_ip.0",
            ".weft.new",
            "10.0.0.2x",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
