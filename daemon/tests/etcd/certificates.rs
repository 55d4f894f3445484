//! An authority, and what it signs, made by openssl.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Authority {
    dir: PathBuf,
    name: String,
}

pub(crate) struct Signed {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let authority = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
        };
        openssl(&[
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2",
            &format!("-subj /CN={name}"),
            &format!("-keyout {}", authority.file(name, "key").display()),
            &format!("-out {}", authority.certificate().display()),
        ]);
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.file(&self.name, "pem")
    }

    /// For `host`, or for a client where there is none.
    pub(crate) fn sign(&self, name: &str, host: Option<IpAddr>, days: i32) -> Signed {
        let (key, csr) = (self.file(name, "key"), self.file(name, "csr"));
        let (cert, extensions) = (self.file(name, "pem"), self.file(name, "ext"));
        openssl(&[
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes",
            &format!(
                "-subj /CN={name} -keyout {} -out {}",
                key.display(),
                csr.display()
            ),
        ]);
        let subject = host.map_or_else(|| format!("DNS:{name}"), |host| format!("IP:{host}"));
        fs::write(&extensions, format!("subjectAltName={subject}\n")).unwrap();
        openssl(&[
            &format!(
                "x509 -req -days {days} -in {} -out {}",
                csr.display(),
                cert.display()
            ),
            &format!("-CA {}", self.certificate().display()),
            &format!(
                "-CAkey {} -CAcreateserial",
                self.file(&self.name, "key").display()
            ),
            &format!("-extfile {}", extensions.display()),
        ]);
        Signed { cert, key }
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }
}

fn openssl(args: &[&str]) {
    let args = args.iter().flat_map(|args| args.split(' '));
    let done = Command::new("openssl").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl: {said}");
}
