//! What `weftd -help` prints.

use std::fmt::Write;

use super::flags::{FLAGS, Flag, Takes};

pub(super) fn text() -> String {
    let mut text = String::from(HEAD);
    for flag in FLAGS {
        describe(flag, &mut text);
    }
    text.push_str(FOOT);
    text
}

fn describe(flag: &Flag, text: &mut String) {
    let value = match flag.takes {
        Takes::Truth => "",
        Takes::Number => " number",
        Takes::Text => " text",
        Takes::Texts => " text, may be repeated",
    };
    let default = match flag.default {
        "" => String::new(),
        default => format!(" (default {default})"),
    };
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "  -{}{value}\n      {}{default}\n",
        flag.name, flag.meaning
    );
}

const HEAD: &str = "\
weftd gives this node its pod subnet and keeps the kernel's way to every other node's true.
It is started by flanneld's command line.

Usage: weftd [-flag[=value]]...   (-flag value and --flag work too)

";

const FOOT: &str = "
Every flag can be set in the environment too: -etcd-prefix as WEFTD_ETCD_PREFIX or
FLANNELD_ETCD_PREFIX (except -version and -cleanup). The command line wins, then WEFTD_.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_flag_with_its_default() {
        let text = text();
        for flag in FLAGS {
            assert!(
                text.contains(&format!("\n  -{}", flag.name)),
                "{}",
                flag.name
            );
            assert!(text.contains(flag.default));
        }
    }
}
