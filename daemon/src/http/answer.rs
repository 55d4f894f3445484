//! What is answered. Pure, but for the look at our own process and at the kernel's counters.

use std::time::Instant;

use super::request::{Refusal, Request};
use crate::metrics::{self, Process};
use crate::status::{Paint, Status};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    content_type: &'static str,
    body: String,
    head_only: bool,
}

impl Answer {
    pub(super) fn to(request: &Request<'_>, status: &Status, now: Instant) -> Self {
        let mut answer = Self::by_path(request, status, now);
        answer.head_only = request.head_only;
        answer
    }

    fn by_path(request: &Request<'_>, status: &Status, now: Instant) -> Self {
        match request.path {
            "/healthz" => Self::plain(200, "flanneld is running"),
            "/readyz" => match status.ready() {
                Ok(()) => Self::plain(200, "flanneld is ready"),
                Err(why) => Self::plain(503, format!("flanneld is not ready yet\n{why}\n")),
            },
            "/metrics" => Self {
                content_type: metrics::CONTENT_TYPE,
                ..Self::plain(200, metrics::text(&status.counted(), Process::this(), now))
            },
            "/status" if request.asks("text") => {
                let paint = match request.asks("colour") {
                    true => Paint::Coloured,
                    false => Paint::Plain,
                };
                Self::plain(200, status.counted().to_text(now, paint))
            }
            "/status" => Self {
                content_type: "application/json",
                ..Self::plain(200, format!("{:#}\n", status.counted().to_json(now)))
            },
            _ => Self::plain(404, NOT_FOUND),
        }
    }

    pub(super) fn refusing(refusal: Refusal) -> Self {
        let (code, why) = match refusal {
            Refusal::Garbled => (400, "this is not an HTTP request\n"),
            Refusal::Method => (405, "only GET and HEAD are answered\n"),
            Refusal::Version => (505, "only HTTP/1 is spoken here\n"),
            Refusal::TooLarge => (431, "the request's head is too large\n"),
            Refusal::TooSlow => (408, "the request took too long\n"),
        };
        Self::plain(code, why)
    }

    fn plain(code: u16, body: impl Into<String>) -> Self {
        Self {
            code,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
            head_only: false,
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let Self {
            code,
            content_type,
            body,
            ..
        } = &self;
        let reason = reason(*code);
        let allow = match code {
            405 => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let head = format!(
            "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             {allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut bytes = head.into_bytes();
        if !self.head_only {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "HTTP Version Not Supported",
    }
}

const NOT_FOUND: &str =
    "nothing is here; there are /healthz, /readyz, /metrics, /status and /status?text\n";
