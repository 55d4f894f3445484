//! What an operator says about etcd, checked: endpoints, prefix, certificates, credentials.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

/// As the flags `--etcd-*` give it.
#[derive(Clone, Default)]
pub struct Settings {
    /// URLs; without a scheme https is meant if any file is given, else http.
    pub endpoints: Vec<String>,
    pub prefix: String,
    /// What the server's certificate is checked against: without it, the system's authorities.
    pub cafile: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no etcd endpoint is given: name one with --etcd-endpoints")]
    NoEndpoint,
    #[error(
        "etcd endpoint {endpoint:?} is no URL of the form http://host:port or https://host:port"
    )]
    Endpoint { endpoint: String },
    #[error("etcd: cannot read {}, given as --etcd-{flag}: {source}", path.display())]
    Unreadable {
        flag: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("etcd: {}, given as --etcd-{flag}, holds no {what} in PEM form", path.display())]
    NotPem {
        flag: &'static str,
        path: PathBuf,
        what: &'static str,
    },
    #[error("etcd: --etcd-{given} is given without --etcd-{lacking}: they belong together")]
    Half {
        given: &'static str,
        lacking: &'static str,
    },
    #[error(
        "etcd: https needs a certificate authority and this host has none in {places}: \
         name one with --etcd-cafile"
    )]
    NoAuthorities { places: String },
}

/// One member of the cluster, as it is dialled and named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) tls: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("cafile", &self.cafile)
            .field("certfile", &self.certfile)
            .field("keyfile", &self.keyfile)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "..."))
            .finish()
    }
}

impl Settings {
    /// An empty flag is one that is not given, as flanneld has it.
    pub(super) fn without_empty_ones(mut self) -> Self {
        for file in [&mut self.cafile, &mut self.certfile, &mut self.keyfile] {
            file.take_if(|path| path.as_os_str().is_empty());
        }
        for text in [&mut self.username, &mut self.password] {
            text.take_if(|text| text.is_empty());
        }
        self
    }

    /// What can be known to be wrong before anybody is asked.
    pub(super) fn check(&self) -> Result<Vec<Endpoint>, Error> {
        let has_files = [&self.cafile, &self.certfile, &self.keyfile]
            .iter()
            .any(|file| file.is_some());
        let endpoints = self
            .endpoints
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .map(|text| Endpoint::parse(text, has_files))
            .collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::NoEndpoint);
        }

        match (&self.certfile, &self.keyfile) {
            (Some(_), None) => return Err(half("certfile", "keyfile")),
            (None, Some(_)) => return Err(half("keyfile", "certfile")),
            _ => {}
        }
        if endpoints.iter().any(|endpoint| endpoint.tls) {
            self.tls()?;
        } else if has_files {
            tracing::warn!("etcd: certificates are given, and every endpoint is plain http");
        }
        if self.username.is_some() && self.password.is_none() {
            tracing::warn!("etcd: --etcd-username without --etcd-password: nobody is logged in");
        }
        Ok(endpoints)
    }

    pub(super) fn credentials(&self) -> Option<(&str, &str)> {
        Some((self.username.as_deref()?, self.password.as_deref()?))
    }

    /// Ready to connect. Files are read each time, so that renewed certificates are found.
    pub(super) fn options(&self, tls: bool, log_in: bool) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(super::CONNECT_LIMIT)
            .with_keep_alive(KEEP_ALIVE_EVERY, KEEP_ALIVE_LIMIT)
            // Nothing waits for an answer then; a server may take such pings amiss.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if tls {
            options = options.with_tls(self.tls()?);
        }
        if let Some((user, password)) = self.credentials().filter(|_| log_in) {
            options = options.with_user(user, password);
        }
        Ok(options)
    }

    /// The arguments that make etcdctl talk to the same cluster in the same way.
    pub(super) fn etcdctl(&self) -> String {
        let mut command = String::from("ETCDCTL_API=3 etcdctl");
        let mut add = |flag: &str, value: &str| {
            command.push_str(" --");
            command.push_str(flag);
            command.push('=');
            command.push_str(value);
        };
        add("endpoints", &self.endpoints.join(","));
        for (flag, file) in [
            ("cacert", &self.cafile),
            ("cert", &self.certfile),
            ("key", &self.keyfile),
        ] {
            if let Some(file) = file {
                add(flag, &file.to_string_lossy());
            }
        }
        if let Some((user, _)) = self.credentials() {
            add("user", user);
        }
        command
    }

    fn tls(&self) -> Result<TlsOptions, Error> {
        let authorities = match &self.cafile {
            Some(path) => read_pem("cafile", path, "CERTIFICATE")?,
            None => system_authorities()?,
        };
        let mut tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(authorities))
            .timeout(super::CONNECT_LIMIT);
        if let (Some(cert), Some(key)) = (&self.certfile, &self.keyfile) {
            tls = tls.identity(Identity::from_pem(
                read_pem("certfile", cert, "CERTIFICATE")?,
                read_pem("keyfile", key, "PRIVATE KEY")?,
            ));
        }
        Ok(tls)
    }
}

impl Endpoint {
    fn parse(text: &str, tls_if_unsaid: bool) -> Result<Self, Error> {
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(no_url(text)),
            None => (tls_if_unsaid, text),
        };
        let authority = rest.trim_end_matches('/');
        let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@');
        if authority.is_empty() || authority.starts_with(':') || authority.contains(odd) {
            return Err(no_url(text));
        }
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{authority}"),
            tls,
        })
    }
}

fn no_url(text: &str) -> Error {
    Error::Endpoint {
        endpoint: text.to_owned(),
    }
}

fn half(given: &'static str, lacking: &'static str) -> Error {
    Error::Half { given, lacking }
}

fn read_pem(flag: &'static str, path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Unreadable {
        flag,
        path: path.to_owned(),
        source,
    })?;
    // "BEGIN EC PRIVATE KEY" is one, too.
    let ending = format!("{what}-----");
    if String::from_utf8_lossy(&text).contains(&ending) {
        return Ok(text);
    }
    Err(Error::NotPem {
        flag,
        path: path.to_owned(),
        what,
    })
}

fn system_authorities() -> Result<Vec<u8>, Error> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_AUTHORITIES.iter().map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find_map(|path| std::fs::read(path).ok())
        .ok_or_else(|| Error::NoAuthorities {
            places: SYSTEM_AUTHORITIES.join(", "),
        })
}

/// Where distributions keep the authorities they trust: Debian, Fedora, SUSE, Alpine.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A peer that vanished without a word is noticed after both together; a server of etcd closes
/// connections that ping more often than every 5 s.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str, tls_if_unsaid: bool) -> Option<(String, bool)> {
        let parsed = Endpoint::parse(text, tls_if_unsaid).ok()?;
        Some((parsed.url, parsed.tls))
    }

    #[test]
    fn an_endpoint_is_a_url_or_host_and_port() {
        let plain = |url: &str| Some((url.to_owned(), false));
        let tls = |url: &str| Some((url.to_owned(), true));
        assert_eq!(endpoint("http://a:2379/", true), plain("http://a:2379"));
        assert_eq!(endpoint("https://[::1]:2", false), tls("https://[::1]:2"));
        assert_eq!(
            endpoint("10.0.0.1:2379", false),
            plain("http://10.0.0.1:2379")
        );
        assert_eq!(
            endpoint("10.0.0.1:2379", true),
            tls("https://10.0.0.1:2379")
        );
        for wrong in [
            "unix:///run/etcd",
            "http://",
            "http://:2379",
            "http://a/v2",
            "a b:1",
        ] {
            assert_eq!(endpoint(wrong, false), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_flags_is_said_before_anybody_is_asked() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings {
                endpoints: vec!["https://a:2379".to_owned()],
                ..Settings::default()
            };
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(with(|s| s.endpoints = vec![String::new()]).contains("--etcd-endpoints"));
        assert!(with(|s| s.certfile = Some("/c".into())).contains("without --etcd-keyfile"));
        assert!(with(|s| s.keyfile = Some("/k".into())).contains("without --etcd-certfile"));
        assert!(with(|s| s.cafile = Some("/no/ca".into())).contains("/no/ca"));
        let not_pem = with(|s| s.cafile = Some("/etc/hostname".into()));
        assert!(not_pem.contains("no CERTIFICATE in PEM form"), "{not_pem}");
    }

    #[test]
    fn a_password_is_not_printed() {
        let settings = Settings {
            password: Some("geheim".to_owned()),
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
