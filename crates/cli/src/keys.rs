//! `latchkey keys`: keys into custody; descriptions, never keys, out of it.

use std::path::Path;

use latchkey_proto::custody::v1 as pb;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::name_of;
use crate::args::{self, KeysImport};
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::output::{Output, time};

pub(crate) async fn run(
    verb: args::Keys,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Keys::Generate {
            meter,
            titles,
            suite,
            mechanism,
        } => {
            let request = pb::GenerateMeterKeysRequest {
                meter_id: meter,
                client_system_title: octets("--client-title", &titles.client_title, 8)?,
                server_system_title: octets("--server-title", &titles.server_title, 8)?,
                security_suite: suite.into(),
                mechanisms: mechanisms(&mechanism),
                policies: Vec::new(),
            };
            generate(request, session, output).await
        }
        args::Keys::List => list(session, output).await,
        args::Keys::Show { meter } => show(meter, session, output).await,
        args::Keys::Client { suite } => {
            let keys = client_keys(suite, session).await?;
            output.result(&keys.json(), || keys.text());
            Ok(Exit::OK)
        }
        args::Keys::Import(args) => import(import_request(&args)?, session, output).await,
    }
}

async fn generate(
    request: pb::GenerateMeterKeysRequest,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("generate keys for {}", request.meter_id);
    let response = session
        .keys()?
        .generate_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    show_one(response.into_inner().keys, output)
}

fn mechanisms(named: &[args::Auth]) -> Vec<i32> {
    named
        .iter()
        .map(|auth| pb::Mechanism::from(*auth).into())
        .collect()
}

fn import_request(args: &KeysImport) -> Result<pb::ImportMeterKeysRequest, Failure> {
    let (wrapped, public) = match args.suite {
        2 => (40, 96),
        _ => (24, 64),
    };
    let optional = |flag: &str, text: &Option<String>, length: usize| match text {
        Some(text) => octets(flag, text, length),
        None => Ok(Vec::new()),
    };
    if args.suite == 0 && (args.server_signing_key.is_some() || args.server_agreement_key.is_some())
    {
        return Err(Failure::usage("suite 0 has no public keys")
            .mend("give --suite 1 or 2, or leave the meter's public keys out"));
    }
    Ok(pb::ImportMeterKeysRequest {
        meter_id: args.meter.clone(),
        client_system_title: octets("--client-title", &args.titles.client_title, 8)?,
        server_system_title: octets("--server-title", &args.titles.server_title, 8)?,
        wrapped_encryption_key: octets("--wrapped-ek", &args.wrapped_ek, wrapped)?,
        wrapped_authentication_key: octets("--wrapped-ak", &args.wrapped_ak, wrapped)?,
        security_suite: args.suite.into(),
        wrapped_hls_secret: secret(args.wrapped_hls_secret.as_deref())?,
        wrapped_key_encryption_key: optional("--wrapped-kek", &args.wrapped_kek, wrapped)?,
        server_signing_key: optional("--server-signing-key", &args.server_signing_key, public)?,
        server_agreement_key: optional(
            "--server-agreement-key",
            &args.server_agreement_key,
            public,
        )?,
        mechanisms: mechanisms(&args.mechanism),
        policies: Vec::new(),
    })
}

/// A wrapped secret: eight octets more than the secret, which has 16 to 64.
fn secret(text: Option<&str>) -> Result<Vec<u8>, Failure> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    match hex::decode(text) {
        Ok(octets) if (24..=72).contains(&octets.len()) && octets.len().is_multiple_of(8) => {
            Ok(octets)
        }
        _ => Err(Failure::usage(
            "--wrapped-hls-secret is malformed: expected 24, 32, 40 ... 72 octets in hex",
        )),
    }
}

/// The head-end's public keys of a suite.
#[derive(Debug, Deserialize)]
pub(crate) struct ClientKeys {
    suite: u8,
    signing_key: String,
    agreement_key: String,
    #[serde(default)]
    signing_certificate: String,
}

impl ClientKeys {
    /// What `keys client` printed into a file.
    pub(crate) fn read(path: &Path, suite: u8) -> Result<Self, Failure> {
        let text = file::read(path)?;
        let keys: Self = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} holds no public keys: {error}", path.display())).mend(
                format!("write it with: latchkey --output json keys client --suite {suite}"),
            )
        })?;
        if keys.suite == suite {
            return Ok(keys);
        }
        Err(Failure::usage(format!(
            "{} holds keys of suite {}, not {suite}",
            path.display(),
            keys.suite
        )))
    }

    /// For ECDSA and ECDH, X || Y.
    pub(crate) fn octets(&self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let length = if self.suite == 2 { 96 } else { 64 };
        Ok((
            octets("signing_key", &self.signing_key, length)?,
            octets("agreement_key", &self.agreement_key, length)?,
        ))
    }

    fn json(&self) -> Value {
        json!({
            "suite": self.suite,
            "signing_key": self.signing_key,
            "agreement_key": self.agreement_key,
            "signing_certificate": self.signing_certificate,
        })
    }

    fn text(&self) -> String {
        let certificate = match self.signing_certificate.as_str() {
            "" => "none",
            certificate => certificate,
        };
        format!(
            "suite:               {}\nsigning key:         {}\nagreement key:       {}\nsigning certificate: {certificate}",
            self.suite, self.signing_key, self.agreement_key
        )
    }
}

/// Asks custody for them.
pub(crate) async fn client_keys(suite: u8, session: &Session) -> Result<ClientKeys, Failure> {
    let request = pb::GetClientKeysRequest {
        security_suite: suite.into(),
    };
    let response = session
        .keys()?
        .get_client_keys(request)
        .await
        .map_err(|status| {
            Failure::status(
                &format!("read the head-end's public keys of suite {suite}"),
                &status,
            )
        })?
        .into_inner();
    Ok(ClientKeys {
        suite,
        signing_key: hex::encode(response.signing_key),
        agreement_key: hex::encode(response.agreement_key),
        signing_certificate: hex::encode(response.signing_certificate),
    })
}

async fn import(
    request: pb::ImportMeterKeysRequest,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("import keys for {}", request.meter_id);
    let response = session
        .keys()?
        .import_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    show_one(response.into_inner().keys, output)
}

async fn show(meter_id: String, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let what = format!("read what custody holds for {meter_id}");
    let response = session
        .keys()?
        .get_meter_keys(pb::GetMeterKeysRequest { meter_id })
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    show_one(response.into_inner().keys, output)
}

async fn list(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let request = pb::ListMeterKeysRequest {
        page_size: 500,
        page_token: String::new(),
    };
    let all = all_pages!(
        session.keys()?,
        list_meter_keys,
        request,
        keys,
        "list what custody holds"
    );
    table(&all, output);
    Ok(Exit::OK)
}

fn show_one(keys: Option<pb::MeterKeys>, output: &Output) -> Result<Exit, Failure> {
    let keys = keys.ok_or_else(|| {
        Failure::new(
            Exit::INTERNAL,
            Party::Service,
            "custody answered without a description",
        )
    })?;
    table(&[keys], output);
    Ok(Exit::OK)
}

fn table(all: &[pb::MeterKeys], output: &Output) {
    let rows: Vec<_> = all.iter().map(|keys| (json_of(keys), row(keys))).collect();
    let header = [
        "METER",
        "CLIENT TITLE",
        "METER TITLE",
        "SUITE",
        "CHECK VALUE",
        "ALSO",
        "NEXT COUNTER",
        "SOURCE",
        "STORED",
    ];
    output.table(&header, &rows);
}

fn row(keys: &pb::MeterKeys) -> Vec<String> {
    vec![
        keys.meter_id.clone(),
        hex::encode(&keys.client_system_title),
        hex::encode(&keys.server_system_title),
        keys.security_suite.to_string(),
        hex::encode(&keys.check_value),
        held(keys),
        keys.next_invocation_counter.to_string(),
        keys.source.clone(),
        time(keys.create_time.as_ref()),
    ]
}

/// What is held besides the two global keys.
fn held(keys: &pb::MeterKeys) -> String {
    let all = [
        (keys.has_password, "password"),
        (keys.has_hls_secret, "HLS secret"),
        (keys.has_key_encryption_key, "KEK"),
        (!keys.server_signing_key.is_empty(), "signing key"),
        (!keys.server_agreement_key.is_empty(), "agreement key"),
    ];
    let held: Vec<_> = all
        .into_iter()
        .filter_map(|(held, name)| held.then_some(name))
        .collect();
    match held.as_slice() {
        [] => "-".to_owned(),
        held => held.join(", "),
    }
}

fn json_of(keys: &pb::MeterKeys) -> Value {
    json!({
        "meter_id": keys.meter_id,
        "client_system_title": hex::encode(&keys.client_system_title),
        "server_system_title": hex::encode(&keys.server_system_title),
        "check_value": hex::encode(&keys.check_value),
        "security_suite": keys.security_suite,
        "mechanisms": keys.mechanisms().map(name_of).collect::<Vec<_>>(),
        "has_password": keys.has_password,
        "has_hls_secret": keys.has_hls_secret,
        "has_key_encryption_key": keys.has_key_encryption_key,
        "server_signing_key": hex::encode(&keys.server_signing_key),
        "server_agreement_key": hex::encode(&keys.server_agreement_key),
        "next_invocation_counter": keys.next_invocation_counter,
        "source": keys.source,
        "create_time": time(keys.create_time.as_ref()),
    })
}

/// Hex of an exact length. The text itself is not repeated: it may be a key.
fn octets(flag: &str, text: &str, length: usize) -> Result<Vec<u8>, Failure> {
    match hex::decode(text) {
        Ok(octets) if octets.len() == length => Ok(octets),
        _ => Err(Failure::usage(format!(
            "{flag} is malformed: expected {length} octets in hex ({} digits)",
            length * 2
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_have_an_exact_length() {
        assert_eq!(octets("--x", "0102", 2).unwrap(), [1, 2]);
        for text in ["01", "010203", "zz", "0102 "] {
            let said = octets("--x", text, 2).unwrap_err().to_string();
            assert!(said.contains("4 digits") && !said.contains("zz"), "{said}");
        }
    }

    #[test]
    fn the_suite_says_how_long_keys_are() {
        let args = |suite, wrapped: usize, public: usize| KeysImport {
            meter: "m".into(),
            titles: args::Titles {
                client_title: "11".repeat(8),
                server_title: "22".repeat(8),
            },
            suite,
            wrapped_ek: "33".repeat(wrapped),
            wrapped_ak: "33".repeat(wrapped),
            wrapped_hls_secret: None,
            wrapped_kek: None,
            server_signing_key: (public > 0).then(|| "44".repeat(public)),
            server_agreement_key: None,
            mechanism: vec![args::Auth::Hls5],
        };
        for (suite, wrapped, public) in [(0, 24, 0), (1, 24, 64), (2, 40, 96), (2, 40, 0)] {
            assert!(
                import_request(&args(suite, wrapped, public)).is_ok(),
                "{suite}"
            );
        }
        for (suite, wrapped, public) in [(0, 40, 0), (0, 24, 64), (1, 24, 96), (2, 24, 0)] {
            assert!(
                import_request(&args(suite, wrapped, public)).is_err(),
                "{suite}"
            );
        }
        assert_eq!(secret(Some(&"55".repeat(40))).unwrap().len(), 40);
        assert!(secret(Some("5555")).is_err());
    }

    #[test]
    fn what_keys_client_prints_is_read_back() {
        let keys = ClientKeys {
            suite: 1,
            signing_key: "66".repeat(64),
            agreement_key: "77".repeat(64),
            signing_certificate: String::new(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), keys.json().to_string()).unwrap();
        let read = ClientKeys::read(file.path(), 1).unwrap();
        assert_eq!(read.octets().unwrap().0, [0x66; 64]);
        assert!(ClientKeys::read(file.path(), 2).is_err());
    }
}
