//! The way to the API server: where it is, and what is shown there. It is read anew after every
//! failure, since addresses, certificates and tokens are renewed while we run.

use std::fs;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use kube::{Client, config};
use tower::{BoxError, ServiceBuilder};

use super::fault::{Fault, innermost};
use crate::options;

/// Of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) struct Way {
    pub(super) client: Client,
    pub(super) url: String,
}

impl Way {
    pub(super) async fn find(options: &options::Kube) -> Result<Self, Fault> {
        let mut config = config(options).await?;
        trim_token(&mut config);
        config.headers.push((
            http::header::USER_AGENT,
            http::HeaderValue::from_static(concat!("weftd/", env!("CARGO_PKG_VERSION"))),
        ));
        let url = config.cluster_url.to_string();
        let url = url.trim_end_matches('/').to_owned();
        if let Some(proxy) = &config.proxy_url {
            return Err(Fault::NoWay(format!(
                "the way to {url} leads through the proxy {proxy}, and weftd goes through none: \
                 take proxy-url out of the kubeconfig, or HTTPS_PROXY out of weftd's environment"
            )));
        }
        let client = client(config, options.patience.unanswered).map_err(|why| {
            Fault::NoWay(format!("prepare the way to {url}: {}", innermost(&why)))
        })?;
        Ok(Self { client, url })
    }
}

async fn config(options: &options::Kube) -> Result<Config, Fault> {
    let url = options.api_url.as_deref().map(|url| {
        url.parse::<http::Uri>().map_err(|why| {
            Fault::NoWay(format!(
                "-kube-api-url={url}: {why}; write it like https://10.0.0.1:6443"
            ))
        })
    });
    let url = url.transpose()?;
    if let Some(file) = &options.kubeconfig {
        let told = |why: &config::KubeconfigError| {
            let file = file.display();
            Fault::NoWay(format!("read -kubeconfig-file={file}: {}", innermost(why)))
        };
        let kubeconfig = Kubeconfig::read_from(file).map_err(|why| told(&why))?;
        let chosen = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &chosen).await;
        let mut config = config.map_err(|why| told(&why))?;
        if let Some(url) = url {
            config.cluster_url = url;
        }
        return Ok(config);
    }
    match url {
        Some(url) => Ok(at(url)),
        None => Config::incluster().map_err(|why| {
            Fault::NoWay(format!(
                "no way to the API server is known: weftd runs outside of a pod ({}); name it with \
                 --kubeconfig-file or --kube-api-url",
                innermost(&why)
            ))
        }),
    }
}

/// With the pod's own account, if weftd runs in one: a node that has no way to the service's
/// address yet names the server's own. A token is shown over TLS alone.
fn at(url: http::Uri) -> Config {
    let is_tls = url.scheme() == Some(&http::uri::Scheme::HTTPS);
    let mut config = Config::new(url);
    let token = format!("{SERVICE_ACCOUNT}/token");
    if is_tls && fs::exists(&token).unwrap_or(false) {
        config.auth_info = AuthInfo {
            token_file: Some(token),
            ..AuthInfo::default()
        };
        config.root_cert_file = Some(format!("{SERVICE_ACCOUNT}/ca.crt").into());
    }
    config
}

/// A file that ends its line is a token all the same. It is not read anew each minute then, but
/// after the first refusal, as all is.
fn trim_token(config: &mut Config) {
    let Some(file) = &config.auth_info.token_file else {
        return;
    };
    let Ok(token) = fs::read_to_string(file) else {
        return;
    };
    if token.trim() != token {
        config.auth_info.token = Some(token.trim().to_owned().into());
        config.auth_info.token_file = None;
    }
}

/// A watch says nothing for minutes: whether its other end is still there, the kernels find out
/// among themselves, at the cost of a segment in a quarter of a minute.
fn client(config: Config, unanswered: Duration) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some((unanswered * 3 / 5).max(SHORTEST)));
    connector.set_keepalive_interval(Some((unanswered / 5).max(SHORTEST)));
    connector.set_keepalive_retries(Some(2));
    connector.set_tcp_user_timeout(Some(unanswered));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// The kernel counts in seconds.
const SHORTEST: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(5);
