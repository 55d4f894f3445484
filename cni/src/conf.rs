//! A network configuration as it came in, whole, with what every plugin reads from it.

use serde_json::{Map, Value};

use crate::{Attachments, Code, Error, Object, Outcome, Result, Version, env::is_identifier};

/// The complete configuration: a delegate is given all of it, not what we understood of it.
#[derive(Clone, Debug)]
pub struct Conf {
    fields: Map<String, Value>,
    version: Version,
    name: String,
}

impl Conf {
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(text).map_err(|why| {
            let empty = text.iter().all(u8::is_ascii_whitespace);
            let why = if empty {
                "nothing on standard input".to_owned()
            } else {
                why.to_string()
            };
            Error::decode(format!("error unmarshall network config: {why}"))
                .with_details("standard input must hold the network configuration as a JSON object")
        })?;
        Object::of(&value, "the network configuration")?;
        let Value::Object(fields) = value else {
            unreachable!("an object, as just seen")
        };
        Self::new(fields)
    }

    pub fn new(fields: Map<String, Value>) -> Result<Self> {
        let object = Object::new(&fields);
        let name = object.text("name")?.unwrap_or_default().to_owned();
        let version = object.text("cniVersion")?.unwrap_or_default();
        if name.is_empty() {
            return Err(Error::config("missing network name")
                .with_details("the configuration needs a \"name\""));
        }
        if !is_identifier(&name) {
            return Err(
                Error::config("invalid characters found in network name").with_details(name)
            );
        }
        let version =
            Version::parse(version).ok_or_else(|| incompatible(version, &Version::ALL))?;
        Ok(Self {
            version,
            name,
            fields,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn object(&self) -> Object<'_> {
        Object::new(&self.fields)
    }

    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// What the plugins before us answered; in DEL not every runtime says.
    pub fn prev_result(&self) -> Result<Option<Outcome>> {
        let prev = self.object().get("prevResult");
        let read = prev.map(|value| Outcome::from_json(value, self.version));
        read.transpose()
            .map_err(|error| error.within("could not parse prevResult"))
    }

    pub fn runtime_config(&self) -> Result<Option<Object<'_>>> {
        self.object().object("runtimeConfig")
    }

    /// `args.cni`: what the runtime, or the author of the configuration, wishes.
    pub fn cni_args(&self) -> Result<Option<Object<'_>>> {
        let Some(args) = self.object().object("args")? else {
            return Ok(None);
        };
        args.object("cni")
    }

    /// The `type` of the `ipam` section; none where there is no address management.
    pub fn ipam_type(&self) -> Result<Option<&str>> {
        let Some(ipam) = self.object().object("ipam")? else {
            return Ok(None);
        };
        Ok(ipam.text("type")?.filter(|name| !name.is_empty()))
    }

    pub fn attachments(&self) -> Result<Option<Attachments>> {
        Attachments::of(&self.object())
    }

    /// The version check that precedes every verb.
    pub fn require_version(&self, supported: &[Version]) -> Result<()> {
        if supported.contains(&self.version) {
            return Ok(());
        }
        Err(incompatible(self.version.text(), supported))
    }
}

fn incompatible(found: &str, supported: &[Version]) -> Error {
    let ours: Vec<&str> = supported.iter().map(|version| version.text()).collect();
    Error::new(Code::IncompatibleVersion, "incompatible CNI versions")
        .with_details(format!("config is {found:?}, plugin supports {ours:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> u32 {
        Conf::parse(text.as_bytes())
            .map(|_| 0)
            .unwrap_or_else(|error| error.code.number())
    }

    #[test]
    fn what_is_no_configuration_is_told_by_its_code() {
        for text in ["", " ", "{", "[]", "\"x\"", "{\"name\": 5}", "{} {}"] {
            assert_eq!(code(text), 6, "{text}");
        }
        for text in [
            "{}",
            "{\"name\": \"\"}",
            "{\"name\": \"../x\"}",
            "{\"name\": \"a b\"}",
        ] {
            assert_eq!(code(text), 7, "{text}");
        }
        assert_eq!(code("{\"name\": \"a\", \"cniVersion\": \"1.0\"}"), 1);
        assert_eq!(code("{\"NAME\": \"a\", \"cniversion\": null}"), 0);
    }

    #[test]
    fn nesting_without_end_is_an_error_and_no_overflow() {
        assert_eq!(code(&"[".repeat(100_000)), 6);
    }
}
