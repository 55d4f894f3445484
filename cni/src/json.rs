//! JSON objects read as the Go plugins read them.
//!
//! Runtimes written in Go send keys in whatever case their structs have (`HostPort`, `hostPort`),
//! so the exact key wins and any ASCII case will do; of duplicates the last one counts; `null` is
//! as good as absent; an empty text where an address is wanted is absent too. A text is never
//! taken for a number or a truth value.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object, and where it stands, so that an error can name the key in full.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    place: String,
}

impl<'a> Object<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            place: String::new(),
        }
    }

    /// `value` as an object; `place` is what an error calls it.
    pub fn of(value: &'a Value, place: impl Into<String>) -> Result<Self> {
        let place = place.into();
        let Some(map) = value.as_object() else {
            return Err(wrong_type(&place, "an object", value));
        };
        Ok(Self { map, place })
    }

    /// The value under `key`, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.get_with_null(key).filter(|value| !value.is_null())
    }

    /// The value under `key`, where null says something.
    pub fn get_with_null(&self, key: &str) -> Option<&'a Value> {
        let folded = || {
            self.map
                .iter()
                .rev()
                .find(|(k, _)| k.eq_ignore_ascii_case(key))
        };
        self.map
            .get(key)
            .or_else(|| folded().map(|(_, value)| value))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Value::as_str)
    }

    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A whole number that fits `N`.
    pub fn number<N: TryFrom<i64>>(&self, key: &str) -> Result<Option<N>> {
        self.typed(key, "a whole number in range", |value| {
            N::try_from(value.as_i64()?).ok()
        })
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        self.get(key)
            .map(|value| Self::of(value, self.place_of(key)))
            .transpose()
    }

    pub fn objects(&self, key: &str) -> Result<Option<Vec<Self>>> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let at = |index| format!("{}[{index}]", self.place_of(key));
        let objects = list
            .iter()
            .enumerate()
            .map(|(i, value)| Object::of(value, at(i)));
        objects.collect::<Result<_>>().map(Some)
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let place = self.place_of(key);
        let text = |value: &Value| {
            let text = value
                .as_str()
                .ok_or_else(|| wrong_type(&place, "a list of texts", value));
            text.map(str::to_owned)
        };
        list.iter().map(text).collect::<Result<_>>().map(Some)
    }

    /// A text that `T` can be parsed from; an empty one is absent.
    pub fn parsed<T: FromStr>(&self, key: &str, wanted: &str) -> Result<Option<T>> {
        let Some(text) = self.text(key)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parsed = text.parse().map(Some);
        parsed
            .map_err(|_| Error::config(format!("{} is {text:?}, not {wanted}", self.place_of(key))))
    }

    /// What an error calls the value under `key`.
    pub fn place_of(&self, key: &str) -> String {
        match self.place.as_str() {
            "" => format!("{key:?}"),
            place => format!("{place} → {key:?}"),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let read = read(value);
        read.map(Some)
            .ok_or_else(|| wrong_type(&self.place_of(key), wanted, value))
    }
}

fn wrong_type(place: &str, wanted: &str, found: &Value) -> Error {
    Error::decode(format!(
        "{place} must be {wanted}, not {}",
        Shortened(found)
    ))
}

/// A value as an error shows it: whole if short, else its beginning.
struct Shortened<'a>(&'a Value);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        if text.chars().count() <= SHOWN {
            return f.write_str(&text);
        }
        write!(f, "{}…", text.chars().take(SHOWN).collect::<String>())
    }
}

const SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn any_case_of_a_key_will_do_and_the_exact_one_wins() {
        let map = parse(r#"{"HOSTPORT": 1, "HostPort": 2}"#);
        assert_eq!(
            Object::new(&map).number::<u16>("hostPort").unwrap(),
            Some(2)
        );
        let map = parse(r#"{"HostPort": 2, "hostPort": 3, "hostport": 4}"#);
        assert_eq!(
            Object::new(&map).number::<u16>("hostPort").unwrap(),
            Some(3)
        );
    }

    #[test]
    fn of_duplicates_the_last_counts() {
        let map = parse(r#"{"mtu": 1, "mtu": 2}"#);
        assert_eq!(Object::new(&map).number::<u32>("mtu").unwrap(), Some(2));
    }

    #[test]
    fn null_and_an_empty_address_are_absent() {
        let map = parse(r#"{"mtu": null, "gateway": ""}"#);
        let object = Object::new(&map);
        assert_eq!(object.number::<u32>("mtu").unwrap(), None);
        assert_eq!(
            object.parsed::<IpAddr>("gateway", "an IP address").unwrap(),
            None
        );
    }

    #[test]
    fn a_text_is_no_truth_value_and_the_error_names_the_key() {
        let map = parse(r#"{"ipam": {"portIsolation": "true"}}"#);
        let ipam = Object::new(&map).object("IPAM").unwrap().unwrap();
        let error = ipam.truth("portIsolation").unwrap_err();
        assert_eq!(
            error.msg,
            r#""IPAM" → "portIsolation" must be true or false, not "true""#
        );
        assert_eq!(error.code, crate::Code::Decode);
    }

    #[test]
    fn a_number_out_of_range_or_with_a_fraction_is_refused() {
        let map = parse(r#"{"a": 70000, "b": 1.5, "c": -1}"#);
        for key in ["a", "b", "c"] {
            assert!(Object::new(&map).number::<u16>(key).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_found_whatever_its_case(upper in proptest::collection::vec(any::<bool>(), 8)) {
            let key: String = "hostport".chars().zip(upper)
                .map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
            let map = parse(&format!("{{{key:?}: 7}}"));
            prop_assert_eq!(Object::new(&map).number::<u16>("hostPort").unwrap(), Some(7));
        }
    }
}
