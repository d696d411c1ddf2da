//! One meter's keys into custody.

use latchkey_proto::custody::v1 as pb;

use super::{list, octets};
use crate::args::{self, KeysGenerate, KeysImport};
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Makes a meter's keys in the token.
pub(super) async fn generate(
    args: &KeysGenerate,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::GenerateMeterKeysRequest {
        meter_id: args.meter.clone(),
        client_system_title: octets("--client-title", &args.titles.client_title, 8)?,
        server_system_title: octets("--server-title", &args.titles.server_title, 8)?,
        security_suite: args.suite.into(),
        mechanisms: mechanisms(&args.uses.mechanism),
        policies: policies(&args.uses.policy),
        broadcast_key: args.broadcast,
        broadcast_key_of: args.broadcast_of.clone().unwrap_or_default(),
    };
    let what = format!("generate keys for {}", request.meter_id);
    let response = session
        .keys()?
        .generate_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    list::one(response.into_inner().keys, output)
}

/// Sends wrapped keys.
pub(super) async fn import(
    args: &KeysImport,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = import_request(args)?;
    let what = format!("import keys for {}", request.meter_id);
    let response = session
        .keys()?
        .import_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    list::one(response.into_inner().keys, output)
}

pub(super) fn mechanisms(named: &[args::Auth]) -> Vec<i32> {
    named
        .iter()
        .map(|auth| pb::Mechanism::from(*auth).into())
        .collect()
}

pub(super) fn policies(named: &[args::Policy]) -> Vec<i32> {
    named
        .iter()
        .map(|policy| pb::SecurityPolicy::from(*policy).into())
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
        mechanisms: mechanisms(&args.uses.mechanism),
        policies: policies(&args.uses.policy),
        wrapped_broadcast_key: optional("--wrapped-gbek", &args.wrapped_gbek, wrapped)?,
        transport: args.transport.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
            wrapped_gbek: None,
            transport: String::new(),
            server_signing_key: (public > 0).then(|| "44".repeat(public)),
            server_agreement_key: None,
            uses: args::Uses {
                mechanism: vec![args::Auth::Hls5],
                policy: vec![args::Policy::Auth],
            },
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
}
