//! The versions of the specification that exist, and what each of them knows.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    pub const NEWEST: Self = Self::V1_1_0;

    /// Versions are compared as text: "1.0" is not "1.0.0". None given means the oldest.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL.into_iter().find(|version| version.text() == text)
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The shape in which results of this version are written.
    pub fn shape(self) -> Shape {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => Shape::OnePerFamily,
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => Shape::VersionedIps,
            Self::V1_0_0 | Self::V1_1_0 => Shape::Plain,
        }
    }

    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

/// Versions of one shape read each other's results; versions of two shapes do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `ip4` and `ip6`.
    OnePerFamily,
    /// `ips` with a `version` in each.
    VersionedIps,
    /// `ips` without.
    Plain,
}

impl Shape {
    pub(crate) fn versions(self) -> impl Iterator<Item = Version> {
        Version::ALL
            .into_iter()
            .filter(move |version| version.shape() == self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_exact_text_and_nothing_like_it() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.text()), Some(version));
        }
        for other in ["1.0", "v1.0.0", "1.0.0 ", "1.2.0", "01.0.0"] {
            assert_eq!(Version::parse(other), None, "{other}");
        }
    }

    #[test]
    fn no_version_given_means_the_oldest() {
        assert_eq!(Version::parse(""), Some(Version::V0_1_0));
    }
}
