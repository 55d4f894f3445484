//! A tar archive in the form that everybody reads (ustar), of files that belong to root and have
//! no age: what is in it alone decides its bytes.

use std::io::{self, Write};

#[derive(Debug)]
pub(crate) struct Archive<W> {
    to: W,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'a> {
    Directory,
    File { bytes: &'a [u8], mode: u32 },
    Link { to: &'a str },
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to }
    }

    pub(crate) fn add(&mut self, name: &str, entry: Entry<'_>) -> io::Result<()> {
        let (kind, mode, bytes, link) = match entry {
            Entry::Directory => (b'5', 0o755, &[][..], ""),
            Entry::File { bytes, mode } => (b'0', mode, bytes, ""),
            Entry::Link { to } => (b'2', 0o777, &[][..], to),
        };
        let mut header = [0; BLOCK];
        text(&mut header, NAME, name)?;
        text(&mut header, LINK, link)?;
        header[KIND] = kind;
        header[MAGIC..MAGIC + 8].copy_from_slice(b"ustar\x0000");
        octal(&mut header, MODE, mode.into());
        for owner in [UID, GID] {
            octal(&mut header, owner, 0);
        }
        octal(&mut header, SIZE, bytes.len() as u64);
        octal(&mut header, TIME, 0);
        // The sum counts its own place as blanks.
        header[SUM.0..SUM.0 + SUM.1].fill(b' ');
        let sum = header.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut header, (SUM.0, SUM.1 - 1), sum);
        self.to.write_all(&header)?;
        self.to.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.to.write_all(&[0; BLOCK][..rest])
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

type Field = (usize, usize);

fn text(header: &mut [u8; BLOCK], (at, room): Field, text: &str) -> io::Result<()> {
    if text.len() > room {
        let why = format!("{text:?} is too long a name for the archive");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    header[at..at + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

/// Digits, and a zero after them.
fn octal(header: &mut [u8; BLOCK], (at, room): Field, number: u64) {
    let digits = format!("{number:0width$o}", width = room - 1);
    header[at..at + room - 1].copy_from_slice(digits.as_bytes());
    header[at + room - 1] = 0;
}

const BLOCK: usize = 512;
const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const TIME: Field = (136, 12);
const SUM: Field = (148, 8);
const KIND: usize = 156;
const LINK: Field = (157, 100);
const MAGIC: usize = 257;
