//! `latchkey allowlist`: who may pass port 4059, and to which meters.

use latchkey_proto::audit::v1 as pb;
use pb::AllowlistSide;
use serde_json::json;

use crate::args;
use crate::client::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, short, time};

pub(crate) async fn run(
    verb: args::Allowlist,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Allowlist::List => list(session, output).await,
        args::Allowlist::Add {
            side,
            network,
            reason,
        } => {
            let version = add(session, side.into(), &network, &reason).await?;
            changed(&network, "is in the allowlist", version, output);
            Ok(Exit::OK)
        }
        args::Allowlist::Remove { side, network } => {
            let request = pb::RemoveAllowlistEntryRequest {
                side: AllowlistSide::from(side).into(),
                network: network.clone(),
            };
            let response = session
                .allowlist()?
                .remove_allowlist_entry(request)
                .await
                .map_err(|status| {
                    Failure::status(&format!("remove {network} from the allowlist"), &status)
                })?;
            changed(
                &network,
                "is not in the allowlist",
                response.into_inner().version,
                output,
            );
            Ok(Exit::OK)
        }
    }
}

/// Adds a network; one that is there already stays. Returns the list's version.
pub(crate) async fn add(
    session: &Session,
    side: AllowlistSide,
    network: &str,
    reason: &str,
) -> Result<u64, Failure> {
    let entry = pb::AllowlistEntry {
        side: side.into(),
        network: network.to_owned(),
        reason: reason.to_owned(),
        ..pb::AllowlistEntry::default()
    };
    let response = session
        .allowlist()?
        .add_allowlist_entry(pb::AddAllowlistEntryRequest { entry: Some(entry) })
        .await
        .map_err(|status| Failure::status(&format!("add {network} to the allowlist"), &status))?;
    Ok(response.into_inner().version)
}

async fn list(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let response = session
        .allowlist()?
        .get_allowlist(pb::GetAllowlistRequest { known_version: 0 })
        .await
        .map_err(|status| Failure::status("read the allowlist", &status))?
        .into_inner();
    let rows: Vec<_> = response
        .entries
        .iter()
        .map(|entry| {
            let side = short(entry.side().as_str_name(), "ALLOWLIST_SIDE_").to_lowercase();
            let added = time(entry.add_time.as_ref());
            let json = json!({
                "side": side,
                "network": entry.network,
                "reason": entry.reason,
                "added_by": entry.added_by,
                "add_time": added,
            });
            (
                json,
                vec![
                    side,
                    entry.network.clone(),
                    added,
                    entry.added_by.clone(),
                    entry.reason.clone(),
                ],
            )
        })
        .collect();
    output.table(&["SIDE", "NETWORK", "ADDED", "BY", "REASON"], &rows);
    output.note(&format!("version {}", response.version));
    Ok(Exit::OK)
}

fn changed(network: &str, what: &str, version: u64, output: &Output) {
    output.result(&json!({ "network": network, "version": version }), || {
        format!("{network} {what} (version {version})")
    });
}
