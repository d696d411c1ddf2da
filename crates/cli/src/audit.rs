//! `latchkey audit`: the trail, read, exported, and verified offline.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use latchkey_proto::audit::v1 as pb;
use serde_json::{Value, json};
use tlog::VerifierKey;
use tlog::export::{Summary, Verifier};

use crate::args;
use crate::client::{Session, all_pages};
use crate::exit::Exit;
use crate::failure::{Failure, Party};
use crate::file;
use crate::output::{Output, short, time};

pub(crate) async fn run(
    verb: args::Audit,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    match verb {
        args::Audit::Checkpoint => checkpoint(session, output).await,
        args::Audit::List { meter, reset } => list(meter, reset, session, output).await,
        args::Audit::Export { out } => export(&out, session, output).await,
        args::Audit::Verify { file, key } => verify(&file, &key, output),
    }
}

async fn checkpoint(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let response = session
        .trail()?
        .get_checkpoint(pb::GetCheckpointRequest {})
        .await
        .map_err(|status| Failure::status("read the checkpoint", &status))?
        .into_inner();
    let json = json!({ "checkpoint": response.checkpoint, "verifier_key": response.verifier_key });
    output.result(&json, || {
        format!(
            "{}\nverifier key: {}",
            response.checkpoint, response.verifier_key
        )
    });
    Ok(Exit::OK)
}

async fn list(
    meter_id: String,
    reset_id: String,
    session: &Session,
    output: &Output,
) -> Result<Exit, Failure> {
    let request = pb::ListEntriesRequest {
        page_size: 500,
        page_token: String::new(),
        meter_id,
        reset_id,
    };
    let entries = all_pages!(
        session.trail()?,
        list_entries,
        request,
        entries,
        "list the trail"
    );
    let rows: Vec<_> = entries
        .iter()
        .filter_map(|indexed| Some((indexed.leaf_index, indexed.entry.as_ref()?)))
        .map(|(index, entry)| (json_of(index, entry), row(index, entry)))
        .collect();
    output.table(
        &["ENTRY", "TIME", "KIND", "METER", "REPORTER", "DETAIL"],
        &rows,
    );
    Ok(Exit::OK)
}

async fn export(out: &Path, session: &Session, output: &Output) -> Result<Exit, Failure> {
    let mut stream = session
        .trail()?
        .export_trail(pb::ExportTrailRequest {})
        .await
        .map_err(|status| Failure::status("export the trail", &status))?
        .into_inner();
    // Beside the target, and renamed when whole: a half-written trail is never mistaken for one.
    let partial = partial(out);
    let mut file =
        File::create(&partial).map_err(|error| Failure::file("write", &partial, &error))?;
    let mut octets: u64 = 0;
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| Failure::status("export the trail", &status))?;
        let Some(message) = message else { break };
        file.write_all(&message.chunk)
            .map_err(|error| Failure::file("write", &partial, &error))?;
        octets = octets.saturating_add(message.chunk.len().try_into().unwrap_or(u64::MAX));
    }
    file.sync_all()
        .and_then(|()| std::fs::rename(&partial, out))
        .map_err(|error| Failure::file("write", out, &error))?;
    output.result(&json!({ "file": out, "octets": octets }), || {
        format!("{}: {octets} octets", out.display())
    });
    Ok(Exit::OK)
}

fn partial(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Needs no service and no network: the file and the public key are enough.
fn verify(path: &Path, key: &str, output: &Output) -> Result<Exit, Failure> {
    let key = verifier_key(key)?;
    let summary = check(path, &key)?;
    let json = json!({
        "verified": true,
        "origin": summary.origin,
        "entries": summary.size,
        "root": summary.root.to_string(),
        "verifier_key": key.to_string(),
    });
    output.result(&json, || {
        format!(
            "verified: {} entries of {}, root {}",
            summary.size, summary.origin, summary.root
        )
    });
    Ok(Exit::OK)
}

fn check(path: &Path, key: &VerifierKey) -> Result<Summary, Failure> {
    let unreadable = |error: std::io::Error| Failure::file("read", path, &error);
    let tampered = |failure: tlog::export::Failure| {
        Failure::new(
            Exit::ACCESS_DENIED,
            Party::Caller,
            format!("{} does not verify: {failure}", path.display()),
        )
        .mend("do not trust this file; export the trail again, and compare the two from the place named above")
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut verifier = Verifier::new(key.clone(), verify_ed25519);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = file.read(&mut buffer).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        let (octets, _) = buffer.split_at(length);
        verifier.push(octets).map_err(tampered)?;
    }
    verifier.finish().map_err(tampered)
}

fn verify_ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, signature)
        .is_ok()
}

/// A verifier key, or a file that holds one.
fn verifier_key(text: &str) -> Result<VerifierKey, Failure> {
    let path = Path::new(text);
    let content = if path.is_file() {
        file::read(path)?
    } else {
        text.to_owned()
    };
    VerifierKey::parse(content.trim()).map_err(|error| {
        Failure::usage(format!(
            "--key is neither a verifier key nor a file that holds one: {error}"
        ))
        .mend("a key looks like NAME+ID+BASE64; `latchkey audit checkpoint` shows the log's")
    })
}

fn row(index: u64, entry: &pb::Entry) -> Vec<String> {
    vec![
        index.to_string(),
        time(entry.append_time.as_ref()),
        short(entry.kind().as_str_name(), "ENTRY_KIND_").to_owned(),
        entry.meter_id.clone(),
        tail(&entry.reporter).to_owned(),
        words(entry),
    ]
}

/// The last part of a peer name: enough for a table.
fn tail(peer: &str) -> &str {
    peer.rsplit('/').next().unwrap_or(peer)
}

fn words(entry: &pb::Entry) -> String {
    let what: Vec<&str> = [
        entry.verdict.as_str(),
        entry.detail.as_str(),
        entry.reason.as_str(),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect();
    what.join("; ")
}

fn json_of(index: u64, entry: &pb::Entry) -> Value {
    let commands: Vec<_> = entry
        .commands
        .iter()
        .map(|command| {
            json!({
                "service": short(command.service().as_str_name(), "COMMAND_SERVICE_"),
                "class_id": command.class_id,
                "logical_name": command.logical_name,
                "index": command.index,
                "digest": hex::encode(&command.digest),
            })
        })
        .collect();
    json!({
        "leaf_index": index,
        "time": time(entry.append_time.as_ref()),
        "kind": short(entry.kind().as_str_name(), "ENTRY_KIND_"),
        "reporter": entry.reporter,
        "principal": entry.principal,
        "meter_id": entry.meter_id,
        "reset_id": entry.reset_id,
        "permit_id": entry.permit_id,
        "purpose": short(entry.purpose().as_str_name(), "PURPOSE_"),
        "tier": short(entry.tier().as_str_name(), "TIER_"),
        "commands": commands,
        "reason": entry.reason,
        "ticket": entry.ticket,
        "policy_ids": entry.policy_ids,
        "detail": entry.detail,
        "verdict": entry.verdict,
        "request_id": entry.request_id,
        "invocation_counter": entry.invocation_counter,
        "count": entry.count,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use tlog::{Checkpoint, Tree, export, leaf_hash};

    use super::*;

    /// A trail of two entries, signed, as an export file.
    fn trail() -> (String, VerifierKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key =
            VerifierKey::new("test/trail", pair.public_key().as_ref().try_into().unwrap()).unwrap();
        let mut tree = Tree::new();
        let bodies = [b"one".as_slice(), b"two"];
        bodies.iter().for_each(|body| tree.push(leaf_hash(body)));
        let checkpoint = Checkpoint::new("test/trail", tree.size(), tree.root()).unwrap();
        let signature: [u8; 64] = pair
            .sign(checkpoint.to_string().as_bytes())
            .as_ref()
            .try_into()
            .unwrap();
        let mut file = export::head(&checkpoint.seal(&key, &signature));
        for (index, body) in (0..).zip(bodies) {
            file.push_str(&export::line(index, body));
        }
        (file, key)
    }

    #[test]
    fn an_exported_trail_verifies_and_a_changed_one_names_its_entry() {
        let (trail, key) = trail();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &trail).unwrap();
        assert_eq!(check(file.path(), &key).unwrap().size, 2);
        let changed = trail.replace("dHdv", "dHdw");
        assert_ne!(changed, trail);
        std::fs::write(file.path(), changed).unwrap();
        let failure = check(file.path(), &key).unwrap_err();
        assert!(failure.to_string().contains("entry 1"), "{failure}");
        assert_eq!(failure.exit().number(), 1);
    }

    #[test]
    fn the_key_may_be_text_or_a_file() {
        let (_, key) = trail();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{key}\n")).unwrap();
        assert_eq!(verifier_key(&key.to_string()).unwrap(), key);
        assert_eq!(verifier_key(file.path().to_str().unwrap()).unwrap(), key);
        assert_eq!(verifier_key("nonsense").unwrap_err().exit(), Exit::USAGE);
    }
}
