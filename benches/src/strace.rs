//! What strace writes of a program's system calls, read back.

/// A line of strace's log, with the bytes it shows below.
pub(crate) struct Call<'a> {
    pub(crate) line: &'a str,
    pub(crate) name: &'a str,
    args: Vec<&'a str>,
    /// What it returned, if it succeeded.
    pub(crate) result: Option<u64>,
    pub(crate) dump: Vec<u8>,
}

pub(crate) fn calls(log: &str) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for line in log.lines() {
        if let Some(dump) = line.strip_prefix(" | ") {
            if let Some(call) = calls.last_mut() {
                let hex = dump.get(7..56).unwrap_or_default().split_ascii_whitespace();
                call.dump
                    .extend(hex.filter_map(|byte| u8::from_str_radix(byte, 16).ok()));
            }
            continue;
        }
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        let Some((args, result)) = rest.rsplit_once(" = ") else {
            continue;
        };
        let args = args.trim_end().strip_suffix(')').unwrap_or(args);
        let result = result
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        calls.push(Call {
            line,
            name,
            args: args.split(", ").collect(),
            result,
            dump: Vec::new(),
        });
    }
    calls
}

impl Call<'_> {
    pub(crate) fn number(&self, index: usize) -> u64 {
        let text = self.args.get(index).copied().unwrap_or("0");
        let parts = text.split('|').map(|part| match part.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap_or(0),
            None => part.parse().unwrap_or(u64::MAX),
        });
        parts.fold(0, |all, part| all | part)
    }

    pub(crate) fn octal(&self, index: usize) -> u16 {
        let text = self.args.get(index).copied().unwrap_or("0");
        u16::from_str_radix(text.trim_start_matches('0'), 8).unwrap_or(0)
    }

    pub(crate) fn slot(&self, index: usize) -> u8 {
        small(self.number(index))
    }

    pub(crate) fn text(&self, index: usize) -> String {
        self.args
            .get(index)
            .map_or_else(String::new, |text| text.trim_matches('"').to_owned())
    }

    /// The last of the descriptors that are sent to another process, or to nobody.
    pub(crate) fn passed_on(&self) -> u8 {
        let list = self
            .line
            .split_once("cmsg_data=[")
            .and_then(|(_, rest)| rest.split_once(']'));
        let last = list.and_then(|(list, _)| list.rsplit(", ").next()?.parse().ok());
        last.unwrap_or_else(|| panic!("the floor cannot send this yet: {}", self.line))
    }

    /// The kind of the message that the kernel refused with this answer.
    pub(crate) fn refused(&self) -> Option<u16> {
        let (_, refused) = self.line.split_once("{error=-")?;
        let (_, kind) = refused.split_once("nlmsg_type=")?;
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u16::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        // As in 0xa<<8|0xd.
        let parts = kind
            .split(',')
            .next()?
            .split('|')
            .map(|part| match part.split_once("<<") {
                Some((high, by)) => Some(number(high)? << number(by)?),
                None => number(part),
            });
        parts.sum()
    }

    /// The flags stand behind what was received, which has commas of its own.
    pub(crate) fn flags_of_receive(&self) -> u64 {
        let count = self.args.len();
        let from_end = if self.line.contains("{sa_family=") {
            5
        } else {
            3
        };
        self.number(count.saturating_sub(from_end))
    }
}

pub(crate) fn small(number: u64) -> u8 {
    u8::try_from(number).expect("descriptors are few")
}
