//! What an answer of etcd-client means for us: try elsewhere, log in again, or tell.

use std::error::Error as StdError;
use std::io::{self, ErrorKind as Kind};

use super::settings::Settings;
use crate::store::registry::Trouble;

/// Why one call at one endpoint came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// This endpoint does not answer, or cannot: another may.
    Elsewhere(Trouble),
    /// Our token is not, or no longer, known.
    LoggedOut,
    /// Every member would say the same.
    Final(Trouble),
    /// A particular answer, which only the caller can weigh.
    Particular(Particular),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Particular {
    /// The revision asked for is thrown away.
    Compacted,
    /// The answer is larger than we take.
    TooLarge,
    /// No such etcd lease.
    NotFound,
    /// Such an etcd lease exists; or nobody can log in, since authentication is off.
    Precondition,
}

/// Who was asked, and with what: for the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) url: &'a str,
    pub(super) settings: &'a Settings,
    pub(super) tls: bool,
    /// It has answered on this connection before.
    pub(super) answered: bool,
}

impl Fault {
    /// For callers to whom no particular answer means anything.
    pub(super) fn into_trouble(self, asked: Asked<'_>) -> Trouble {
        match self {
            Self::Elsewhere(trouble) | Self::Final(trouble) => trouble,
            Self::LoggedOut => Trouble::Refused(asked.says(
                "it does not accept the token it has just given",
                "is the clock of a member wrong, or its --auth-token-ttl too short?",
            )),
            Self::Particular(which) => Trouble::Garbled(which.told(asked)),
        }
    }
}

impl Particular {
    fn told(self, asked: Asked<'_>) -> String {
        match self {
            Self::Compacted => asked.says(
                "it throws history away faster than it can be read",
                "let its --auto-compaction-retention be some minutes",
            ),
            Self::TooLarge => asked.says(
                "a single lease is larger than a message may be",
                "look what is written below the prefix",
            ),
            Self::NotFound => asked.says("it forgets leases it has just given", "is it well?"),
            Self::Precondition => asked.says("it says a precondition fails", "is it well?"),
        }
    }
}

impl Asked<'_> {
    pub(super) fn timed_out(&self) -> Fault {
        Fault::Elsewhere(Trouble::Unreachable(format!(
            "etcd at {} does not answer in time: is it overloaded, or a firewall in the way?",
            self.url
        )))
    }

    pub(super) fn weigh(&self, error: &etcd_client::Error) -> Fault {
        let etcd_client::Error::GRpcStatus(status) = error else {
            return self.weigh_client(error);
        };
        let said = status.message();
        match i32::from(status.code()) {
            code::UNAUTHENTICATED => Fault::LoggedOut,
            code::NOT_FOUND => Fault::Particular(Particular::NotFound),
            code::FAILED_PRECONDITION => Fault::Particular(Particular::Precondition),
            code::OUT_OF_RANGE if said == COMPACTED => Fault::Particular(Particular::Compacted),
            code::OUT_OF_RANGE => Fault::Particular(Particular::TooLarge),
            code::INVALID_ARGUMENT => self.weigh_argument(said),
            code::PERMISSION_DENIED => Fault::Final(self.denied()),
            code::RESOURCE_EXHAUSTED if said == FULL => Fault::Final(Trouble::Refused(self.says(
                "its database has no space left",
                "compact and defragment it, then `etcdctl alarm disarm`",
            ))),
            code::UNIMPLEMENTED => Fault::Final(Trouble::Garbled(self.says(
                said,
                "it does not speak etcd's v3 protocol: does the endpoint name something else?",
            ))),
            _ => Fault::Elsewhere(self.unanswered(error, said)),
        }
    }

    pub(super) fn denied(&self) -> Trouble {
        let who = match self.settings.credentials() {
            Some((user, _)) => format!("user {user:?} may not"),
            None => "nobody is logged in, and so we may not".to_owned(),
        };
        let prefix = &self.settings.prefix;
        Trouble::Refused(self.says(
            &format!("{who} read and write {prefix}/"),
            &format!(
                "`etcdctl role grant-permission <role> readwrite --prefix=true {prefix}/`, and \
                 give that role to the user of --etcd-username"
            ),
        ))
    }

    pub(super) fn says(&self, what: &str, remedy: &str) -> String {
        format!("etcd at {}: {what}: {remedy}", self.url)
    }

    /// The texts are etcd's own names of its errors: its code alone says "invalid argument".
    fn weigh_argument(&self, said: &str) -> Fault {
        match said {
            "etcdserver: revision of auth store is old" => Fault::LoggedOut,
            "etcdserver: user name is empty" if self.settings.credentials().is_some() => {
                Fault::LoggedOut
            }
            "etcdserver: user name is empty" => Fault::Final(Trouble::Refused(self.says(
                "it wants a user name and a password",
                "give --etcd-username and --etcd-password",
            ))),
            "etcdserver: authentication failed, invalid user ID or password" => {
                let user = self.settings.username.as_deref().unwrap_or_default();
                Fault::Final(Trouble::Refused(self.says(
                    &format!("wrong user name or password for {user:?}"),
                    "correct --etcd-username and --etcd-password",
                )))
            }
            _ => Fault::Final(Trouble::Refused(
                self.says(said, "it refuses what it was asked"),
            )),
        }
    }

    /// Nothing came from a server: settings that cannot be used, or a connection that broke.
    fn weigh_client(&self, error: &etcd_client::Error) -> Fault {
        match error {
            etcd_client::Error::TransportError(source) => {
                Fault::Elsewhere(self.unanswered(source, "transport error"))
            }
            _ => Fault::Elsewhere(Trouble::Refused(format!("etcd at {}: {error}", self.url))),
        }
    }

    fn unanswered(&self, error: &(dyn StdError + 'static), said: &str) -> Trouble {
        let causes = causes(error);
        if let Some(refusal) = causes.iter().find_map(|cause| tls_refusal(*cause)) {
            let (what, remedy) = refusal;
            return Trouble::Refused(self.says(&what, remedy));
        }
        let Some(deepest) = causes.last().map(ToString::to_string) else {
            return Trouble::Unreachable(format!("etcd at {}: {said}", self.url));
        };
        Trouble::Unreachable(match causes.iter().find_map(|cause| io_kind(*cause)) {
            Some(Kind::ConnectionRefused) => self.says("connection refused", "does it run there?"),
            kind @ (None
            | Some(
                Kind::BrokenPipe | Kind::ConnectionReset | Kind::UnexpectedEof | Kind::InvalidData,
            )) if !self.answered => self.says(&deepest, self.hung_up(kind)),
            _ => format!("etcd at {}: {deepest}", self.url),
        })
    }

    /// A server that expects another kind of connection ends it, often without a word; what TLS
    /// says after its handshake reaches us as text at best.
    fn hung_up(&self, kind: Option<Kind>) -> &'static str {
        match (self.tls, kind, &self.settings.certfile) {
            (false, ..) => "does it speak TLS? Then the endpoint is https, not http",
            (true, Some(Kind::UnexpectedEof), _) => NO_TLS,
            (true, _, None) => {
                "does it want a client certificate? Then give --etcd-certfile and --etcd-keyfile"
            }
            (true, _, Some(_)) => "does it not accept the client certificate of --etcd-certfile?",
        }
    }
}

/// From the outermost to the deepest, passing through io::Error, which hides what it carries.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut found = Vec::new();
    let mut next = match error.downcast_ref::<etcd_client::Error>() {
        Some(etcd_client::Error::GRpcStatus(status)) => status.source(),
        _ => Some(error),
    };
    while let Some(cause) = next {
        found.push(cause);
        let carried = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried as &(dyn StdError + 'static)),
            None => cause.source(),
        };
    }
    found
}

fn io_kind(cause: &(dyn StdError + 'static)) -> Option<Kind> {
    cause.downcast_ref::<io::Error>().map(io::Error::kind)
}

fn tls_refusal(cause: &(dyn StdError + 'static)) -> Option<(String, &'static str)> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
    let tls = cause.downcast_ref::<Tls>()?;
    let remedy = match tls {
        Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "its certificate is by an authority that --etcd-cafile does not name"
        }
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: renew it, or set this machine's clock right"
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: is a clock wrong?"
        }
        Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for other names: use one of those in --etcd-endpoints"
        }
        Tls::InvalidMessage(_) => NO_TLS,
        Tls::AlertReceived(Alert::CertificateRequired) => {
            "it wants a client certificate: give --etcd-certfile and --etcd-keyfile"
        }
        Tls::AlertReceived(
            Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied,
        ) => "it does not accept our client certificate (--etcd-certfile), or wants one",
        _ => "check the certificates on both sides",
    };
    Some((format!("TLS: {tls}"), remedy))
}

const NO_TLS: &str = "does it speak no TLS? Then the endpoint is http, not https";
/// How etcd names NOSPACE; other exhaustion passes.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FULL: &str = "etcdserver: mvcc: database space exceeded";

/// The codes of gRPC, whose type etcd-client does not export.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}
