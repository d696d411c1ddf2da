//! Changing what custody holds: facts, trust, and the end of keys.

use latchkey_proto::custody::v1 as pb;

use super::{import, list, octets};
use crate::args::{KeysDestroy, KeysUpdate};
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Changes what is known of a meter in clear.
pub(super) async fn update(
    args: &KeysUpdate,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut request = update_request(args)?;
    let held = list::held(&args.meter, session).await?;
    request.row_version = args.version.unwrap_or(held.row_version);
    let what = format!("change the keys of {}", args.meter);
    let response = session
        .keys()?
        .update_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    list::one(response.into_inner().keys, output)
}

fn update_request(args: &KeysUpdate) -> Result<pb::UpdateMeterKeysRequest, Failure> {
    let mut paths = Vec::new();
    let mut given = |flag: &str, field: &str, text: &Option<String>, lengths: &[usize]| {
        let Some(text) = text else {
            return Ok(Vec::new());
        };
        paths.push(field.to_owned());
        // An empty one takes a public key away.
        if text.is_empty() && lengths.len() > 1 {
            return Ok(Vec::new());
        }
        let length = lengths.iter().find(|length| text.len() == *length * 2);
        octets(flag, text, *length.unwrap_or(&lengths[0]))
    };
    let mut request = pb::UpdateMeterKeysRequest {
        meter_id: args.meter.clone(),
        client_system_title: given(
            "--client-title",
            "client_system_title",
            &args.client_title,
            &[8],
        )?,
        server_system_title: given(
            "--server-title",
            "server_system_title",
            &args.server_title,
            &[8],
        )?,
        server_signing_key: given(
            "--server-signing-key",
            "server_signing_key",
            &args.server_signing_key,
            &[64, 96],
        )?,
        server_agreement_key: given(
            "--server-agreement-key",
            "server_agreement_key",
            &args.server_agreement_key,
            &[64, 96],
        )?,
        mechanisms: import::mechanisms(&args.uses.mechanism),
        policies: import::policies(&args.uses.policy),
        justification: args.reason.clone(),
        ..pb::UpdateMeterKeysRequest::default()
    };
    if !args.uses.mechanism.is_empty() || args.any_mechanism {
        paths.push("mechanisms".to_owned());
    }
    if !args.uses.policy.is_empty() || args.no_policy {
        paths.push("policies".to_owned());
    }
    if paths.is_empty() {
        return Err(Failure::usage("nothing is to be changed").mend("name what is to be changed"));
    }
    request.update_mask = Some(prost_types::FieldMask { paths });
    Ok(request)
}

/// Marks keys that somebody else may have.
pub(super) async fn compromise(
    meter_id: String,
    justification: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let what = format!("mark the keys of {meter_id} compromised");
    let request = pb::MarkMeterKeysCompromisedRequest {
        meter_id,
        row_version: 0,
        justification,
    };
    let response = session
        .keys()?
        .mark_meter_keys_compromised(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    list::one(response.into_inner().keys, output)
}

/// Destroys a meter's keys: those whose check value was named, and no others.
pub(super) async fn destroy(
    args: &KeysDestroy,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let held = list::held(&args.meter, session).await?;
    let named = args.check_value.to_lowercase();
    if hex::encode(&held.check_value) != named {
        let what = format!("the keys of {} have another check value", args.meter);
        return Err(Failure::usage(what)
            .mend("look at them with `latchkey keys show`: destroyed keys never come back"));
    }
    let request = pb::DestroyMeterKeysRequest {
        meter_id: args.meter.clone(),
        row_version: held.row_version,
        justification: args.reason.clone(),
    };
    let what = format!("destroy the keys of {}", args.meter);
    let response = session
        .keys()?
        .destroy_meter_keys(request)
        .await
        .map_err(|status| Failure::status(&what, &status))?;
    list::one(response.into_inner().keys, output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn args() -> KeysUpdate {
        KeysUpdate {
            meter: "m".to_owned(),
            client_title: None,
            server_title: None,
            server_signing_key: None,
            server_agreement_key: None,
            uses: args::Uses {
                mechanism: Vec::new(),
                policy: Vec::new(),
            },
            any_mechanism: false,
            no_policy: false,
            version: None,
            reason: "why".to_owned(),
        }
    }

    fn paths(args: &KeysUpdate) -> Vec<String> {
        update_request(args).unwrap().update_mask.unwrap().paths
    }

    #[test]
    fn the_mask_names_what_was_given() {
        assert!(update_request(&args()).is_err(), "nothing was");
        let title = KeysUpdate {
            server_title: Some("22".repeat(8)),
            any_mechanism: true,
            ..args()
        };
        assert_eq!(paths(&title), ["server_system_title", "mechanisms"]);
        let away = KeysUpdate {
            server_signing_key: Some(String::new()),
            server_agreement_key: Some("44".repeat(96)),
            no_policy: true,
            ..args()
        };
        assert_eq!(
            paths(&away),
            ["server_signing_key", "server_agreement_key", "policies"]
        );
        let request = update_request(&away).unwrap();
        assert_eq!(request.server_agreement_key.len(), 96);
        let short = KeysUpdate {
            client_title: Some("22".repeat(7)),
            ..args()
        };
        assert!(update_request(&short).is_err());
    }
}
