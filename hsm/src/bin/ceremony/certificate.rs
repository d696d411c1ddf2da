//! Requests for certificates, and the certificates that came of them, for keys of a token.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use hsm::{Error, Role, Subject, Token, TokenConfig};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What is done beside ceremonies.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prints a certificate request (PKCS #10, PEM) for a key of a token, signed by that key.
    Csr(Csr),
    /// Certificates that a token keeps beside its keys.
    #[command(subcommand)]
    Certificate(Certificate),
    /// Prints the public half of an RSA transport key (PEM), for the makers of meters, and how to
    /// encipher with it.
    TransportKey {
        #[command(flatten)]
        key: Key,
    },
    /// Opens a token as a service does, and prints what its self-test finds: what the token can do,
    /// how Latchkey does it there, and which keys are not used. Fails where the service would.
    Report(Report),
}

/// A token and a key of it.
#[derive(Args)]
pub(crate) struct Key {
    /// The PKCS#11 module (a shared library).
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// Label of the token.
    #[arg(long, value_name = "LABEL")]
    token: String,
    /// Serial number of the token, where two share a label.
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
    /// File with the user PIN.
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// Label of the key: tls-N, sign-p256-N, sign-p384-N, agree-p256-N, agree-p384-N or
    /// transport-rsa-N.
    #[arg(long, value_name = "LABEL")]
    object: String,
}

#[derive(Args)]
pub(crate) struct Report {
    /// The PKCS#11 module (a shared library).
    #[arg(long, value_name = "FILE")]
    module: PathBuf,
    /// Label of the token.
    #[arg(long, value_name = "LABEL")]
    token: String,
    /// Serial number of the token, where two share a label.
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
    /// File with the user PIN.
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// What it is for: custody, auditor, tls or backup.
    #[arg(long, value_name = "ROLE", value_parser = role)]
    role: Role,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn role(text: &str) -> Result<Role, String> {
    let all = [Role::Custody, Role::Auditor, Role::Tls, Role::Backup];
    let found = all.into_iter().find(|role| role.as_str() == text);
    found.ok_or_else(|| "custody, auditor, tls or backup".to_owned())
}

#[derive(Args)]
pub(crate) struct Csr {
    #[command(flatten)]
    key: Key,
    /// Peer name of the service, for a TLS key: spiffe://DOMAIN/PATH.
    #[arg(
        long,
        value_name = "URI",
        required_unless_present = "system_title",
        conflicts_with = "system_title"
    )]
    uri: Option<String>,
    /// DNS name beside the peer name; may be repeated.
    #[arg(long, value_name = "NAME", requires = "uri")]
    dns: Vec<String>,
    /// Client system title, for a DLMS key: 16 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    system_title: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Certificate {
    /// Puts a certificate and its issuers into the token, instead of those that are there.
    Import {
        #[command(flatten)]
        key: Key,
        /// The certificate, then its issuers, PEM.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Prints the chain that the token keeps for the key, PEM.
    Show {
        #[command(flatten)]
        key: Key,
    },
    /// Removes the chain that the token keeps for the key.
    Remove {
        #[command(flatten)]
        key: Key,
    },
}

/// Carries the command out; what is to be printed.
pub(crate) fn run(command: Command) -> Result<String, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| config(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Csr(csr) => request(csr).await,
            Command::Certificate(Certificate::Import { key, file }) => import(key, &file).await,
            Command::Certificate(Certificate::Show { key }) => {
                let chain = open(&key).await?.certificates(&key.object).await?;
                Ok(chain.iter().map(|der| pem("CERTIFICATE", der)).collect())
            }
            Command::Certificate(Certificate::Remove { key }) => {
                let was = open(&key).await?.remove_certificates(&key.object).await?;
                let said = if was { "removed" } else { "there was none" };
                Ok(format!("{said}\n"))
            }
            Command::Report(report) => tell(report).await,
            Command::TransportKey { key } => {
                let public = open(&key).await?.transport_key(&key.object).await?;
                let (hash, print) = (public.hash, hex::encode(public.fingerprint()));
                let how = format!("RSA-OAEP with {hash}, MGF1 with {hash}, empty label");
                let print = format!("SHA-256 of the key's DER: {print}");
                Ok(format!("{how}\n{print}\n{}", public.pem()))
            }
        }
    })
}

async fn tell(report: Report) -> Result<String, Error> {
    let mut config = TokenConfig::new(&report.module, &report.token, &report.pin_file);
    config.token_serial = report.serial;
    let token = Token::open(&config, report.role).await?;
    let mut told = String::new();
    for able in token.capabilities() {
        if report.json {
            let json = serde_json::to_string_pretty(&able);
            told += &json.map_err(|error| self::config(error.to_string()))?;
            told.push('\n');
        } else {
            told += &able.to_string();
        }
    }
    Ok(told)
}

async fn request(csr: Csr) -> Result<String, Error> {
    let subject = match (csr.uri, csr.system_title) {
        (Some(uri), _) => Subject::Service { uri, dns: csr.dns },
        (None, Some(title)) => {
            let title = hex::decode(&title)
                .ok()
                .and_then(|octets| octets.try_into().ok());
            let title = title
                .ok_or_else(|| config("--system-title must be 16 hexadecimal digits".to_owned()))?;
            if csr.key.object.starts_with("agree-") {
                Subject::Agreement { title }
            } else {
                Subject::Signing { title }
            }
        }
        (None, None) => return Err(config("name --uri or --system-title".to_owned())),
    };
    let token = open(&csr.key).await?;
    let der = token.certificate_request(&csr.key.object, &subject).await?;
    Ok(pem("CERTIFICATE REQUEST", &der))
}

async fn import(key: Key, file: &Path) -> Result<String, Error> {
    let text = std::fs::read(file).map_err(|source| Error::File {
        path: file.to_owned(),
        source,
    })?;
    let refuse = |why: String| Error::Certificate {
        label: key.object.clone(),
        why: format!("{}: {why}", file.display()),
    };
    let mut chain = Vec::new();
    for block in Pem::iter_from_buffer(&text) {
        let block = block.map_err(|error| refuse(error.to_string()))?;
        if block.label == "CERTIFICATE" {
            chain.push(block.contents);
        }
    }
    let mut story = String::new();
    for der in &chain {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| refuse(error.to_string()))?;
        let until = certificate.validity().not_after;
        // writing to a String does not fail
        let _ = writeln!(story, "{} until {until}", certificate.subject());
    }
    let token = open(&key).await?;
    token.store_certificates(&key.object, chain).await?;
    Ok(story)
}

async fn open(key: &Key) -> Result<Token, Error> {
    let mut config = TokenConfig::new(&key.module, &key.token, &key.pin_file);
    config.token_serial.clone_from(&key.serial);
    let role = if key.object.starts_with("tls-") {
        Role::Tls
    } else {
        Role::Custody
    };
    Token::open(&config, role).await
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    let text = STANDARD.encode(der);
    let mut rest = text.as_str();
    while let Some((line, more)) = rest.split_at_checked(64) {
        let _ = writeln!(pem, "{line}");
        rest = more;
    }
    if !rest.is_empty() {
        let _ = writeln!(pem, "{rest}");
    }
    pem + "-----END " + label + "-----\n"
}

fn config(why: String) -> Error {
    Error::Config { why }
}
