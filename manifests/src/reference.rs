//! What an image is called.

use std::fmt;
use std::str::FromStr;

/// In full, as container runtimes look it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    repository: String,
    tag: String,
}

impl Reference {
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = String;

    /// What has no registry is docker.io's, what has no tag is the latest.
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        if text.is_empty() || !text.chars().all(plain) {
            return Err(format!(
                "{text:?} names no image: an image is named as in registry.example/weft:1.0"
            ));
        }
        let (repository, tag) = match text.rsplit_once(':') {
            // A colon before the last slash is of the registry's port.
            Some((repository, tag)) if !tag.contains('/') && !tag.is_empty() => (repository, tag),
            Some(_) | None => (text, "latest"),
        };
        let repository = match repository.split_once('/') {
            Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => {
                repository.to_owned()
            }
            Some(_) => format!("docker.io/{repository}"),
            None => format!("docker.io/library/{repository}"),
        };
        Ok(Self {
            repository,
            tag: tag.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_complete_them() {
        for (given, full) in [
            ("localhost/weft:0.1.0", "localhost/weft:0.1.0"),
            (
                "registry.example:5000/net/weft",
                "registry.example:5000/net/weft:latest",
            ),
            ("weft", "docker.io/library/weft:latest"),
            ("somebody/weft:1", "docker.io/somebody/weft:1"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), full);
        }
        for wrong in ["", "weft latest", "weft@sha256:0"] {
            assert!(
                wrong
                    .parse::<Reference>()
                    .unwrap_err()
                    .contains("names no image")
            );
        }
    }
}
