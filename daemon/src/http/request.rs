//! The head of a request, as far as it matters here. Pure.

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// HEAD: the answer without its body.
    pub(super) head_only: bool,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What came is not HTTP.
    Garbled,
    Method,
    Version,
    TooLarge,
    TooSlow,
}

/// The length of the head, with the empty line that ends it.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    loop {
        let newline = line + bytes[line..].iter().position(|byte| *byte == b'\n')?;
        // Empty lines before the first are passed over, as the standard advises.
        if matches!(&bytes[line..newline], b"" | b"\r") && line > leading(bytes) {
            return Some(newline + 1);
        }
        line = newline + 1;
    }
}

fn leading(bytes: &[u8]) -> usize {
    let text = bytes.iter().position(|byte| !b"\r\n".contains(byte));
    text.unwrap_or(bytes.len())
}

impl<'a> Request<'a> {
    pub(super) fn parse(head: &'a [u8]) -> Result<Self, Refusal> {
        let head = &head[leading(head)..];
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
        let line = std::str::from_utf8(line).map_err(|_| Refusal::Garbled)?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal::Garbled);
        };
        let Some(version) = version.strip_prefix("HTTP/") else {
            return Err(Refusal::Garbled);
        };
        if !version.starts_with("1.") {
            return Err(Refusal::Version);
        }
        let head_only = match method {
            "GET" => false,
            "HEAD" => true,
            _ if !method.is_empty() && method.bytes().all(is_token) => {
                return Err(Refusal::Method);
            }
            _ => return Err(Refusal::Garbled),
        };
        let (path, query) = split(target).ok_or(Refusal::Garbled)?;
        Ok(Self {
            head_only,
            path,
            query,
        })
    }

    /// Whether `name` is asked for: `?name` or `?other&name=1`.
    pub(super) fn asks(&self, name: &str) -> bool {
        self.query
            .split('&')
            .any(|part| part.split('=').next() == Some(name))
    }
}

/// Path and query, of a target that may be told as a whole address.
fn split(target: &str) -> Option<(&str, &str)> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    Some(path.split_once('?').unwrap_or((path, "")))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_asks(head: &str, path: &str, query: &str) {
        let request = Request::parse(head.as_bytes()).unwrap();
        assert_eq!((request.path, request.query), (path, query));
    }

    #[test]
    fn a_request_is_read_in_every_form_it_may_have() {
        assert_asks("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "/healthz", "");
        assert_asks("GET /status?text HTTP/1.0\n\n", "/status", "text");
        assert_asks("GET http://a:1/x?y HTTP/1.1\r\n\r\n", "/x", "y");
        assert_asks("GET http://a HTTP/1.1\r\n\r\n", "/", "");
        assert_asks("\r\n\r\nGET /x HTTP/1.1\r\n\r\n", "/x", "");
        assert!(
            Request::parse(b"HEAD / HTTP/1.1\r\n\r\n")
                .unwrap()
                .head_only
        );
    }

    #[test]
    fn a_query_is_asked_by_name() {
        let request = Request::parse(b"GET /status?a=b&text=1&c HTTP/1.1\r\n\r\n").unwrap();
        assert!(request.asks("text") && request.asks("c") && request.asks("a"));
        assert!(!request.asks("tex") && !request.asks("b"));
    }

    #[test]
    fn what_is_refused_is_told_by_its_kind() {
        for (head, refusal) in [
            ("POST /healthz HTTP/1.1\r\n\r\n", Refusal::Method),
            ("DELETE /x HTTP/1.1\r\n\r\n", Refusal::Method),
            ("GET / HTTP/2.0\r\n\r\n", Refusal::Version),
            ("GET / FTP/1.1\r\n\r\n", Refusal::Garbled),
            ("GET /\r\n\r\n", Refusal::Garbled),
            ("GET  / HTTP/1.1\r\n\r\n", Refusal::Garbled),
            ("GET x HTTP/1.1\r\n\r\n", Refusal::Garbled),
            ("GET /\x07 HTTP/1.1\r\n\r\n", Refusal::Garbled),
            ("\x16\x03\x01 / HTTP/1.1\r\n\r\n", Refusal::Garbled),
            ("", Refusal::Garbled),
        ] {
            assert_eq!(Request::parse(head.as_bytes()), Err(refusal), "{head:?}");
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n\r\nmore"), Some(18));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\n\nmore"), Some(16));
        assert_eq!(end_of_head(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Some(22));
        for part in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n",
        ] {
            assert_eq!(end_of_head(part.as_bytes()), None, "{part:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let head = end_of_head(&bytes).unwrap_or(bytes.len());
            prop_assert!(head <= bytes.len());
            Request::parse(&bytes[..head]).ok();
        }

        #[test]
        fn nearly_a_request_is_no_panic(head in "[GETHAD /?&=:.\r\n12htp]{0,80}") {
            end_of_head(head.as_bytes());
            Request::parse(head.as_bytes()).ok();
        }
    }
}
