//! Bytes at places: a file, or memory where no file can be had.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use crate::mortal::about_to_change;

#[derive(Debug)]
pub(super) enum Storage {
    /// Read and written in single slots: mapping or loading it would cost what it is to save.
    File(File),
    Memory(Vec<u8>),
}

impl Storage {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::File(
            File::options().read(true).write(true).open(path)?,
        ))
    }

    /// All zero, and taking no room on the disk until it is written.
    pub(super) fn create(path: &Path, size: u64) -> io::Result<Self> {
        about_to_change()?;
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(size)?;
        Ok(Self::File(file))
    }

    pub(super) fn in_memory(size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self::Memory(vec![0; size]))
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, at),
            Self::Memory(bytes) => {
                let here = bytes
                    .get(place(at, buffer.len())?)
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(here);
                Ok(())
            }
        }
    }

    pub(super) fn write(&mut self, at: u64, buffer: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => {
                about_to_change()?;
                file.write_all_at(buffer, at)
            }
            Self::Memory(bytes) => {
                let place = place(at, buffer.len())?;
                let here = bytes.get_mut(place).ok_or(io::ErrorKind::UnexpectedEof)?;
                here.copy_from_slice(buffer);
                Ok(())
            }
        }
    }
}

fn place(at: u64, length: usize) -> io::Result<Range<usize>> {
    let at = usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    Ok(at..at + length)
}
