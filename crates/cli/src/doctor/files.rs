//! Files: who may read them, and what the certificates among them say. And the clock they are checked against.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kit::config::Tls;
use x509_parser::pem::parse_x509_pem;

use super::Finding;
use crate::failure::chain;

/// A certificate that ends sooner than this is worth a finding: time enough to replace it.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// No honest clock is before this program was written: 2026-01-01.
const WRITTEN: Duration = Duration::from_secs(1_767_225_600);

/// Key, certificate, authority: all there, fitting, in time, and the key nobody else's.
pub(crate) fn identity(who: &str, tls: &Tls, named_in: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(file) = &tls.key_file {
        findings.push(secret(&format!("key {who}"), file));
    }
    if let Some(file) = tls.token.as_ref().and_then(|token| token.pin_file.as_ref()) {
        findings.push(secret(&format!("PIN of the TLS token {who}"), file));
    }
    if let Some(file) = &tls.certificate_file {
        findings.push(certificate(&format!("certificate {who}"), file, None));
    }
    findings.push(certificate(&format!("authority {who}"), &tls.ca_file, None));
    // A wrong PIN is counted, so it is not tried with a file that others can change. A credential is the service's alone.
    let elsewhere = |token: &hsm::TokenConfig| token.pin_file.is_none();
    if tls.token.is_some() && findings.iter().any(Finding::is_bad)
        || tls.token.as_ref().is_some_and(elsewhere)
    {
        return findings;
    }
    let check = format!("identity {who}");
    findings.push(match (kit::tls::own_name(tls), kit::tls::server_config(tls)) {
        (Ok(name), Ok(_)) => Finding::good(check, format!("is {name}")),
        (Err(error), _) | (_, Err(error)) => Finding::bad(
            check,
            error.to_string(),
            format!(
                "issue a certificate with exactly one URI name of {} and its own key; both are named in {}",
                tls.trust_domain,
                named_in.display()
            ),
        ),
    });
    findings
}

/// A file only its owner may read.
pub(crate) fn secret(check: &str, path: &Path) -> Finding {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Finding::bad(
                check,
                format!("{shown}: {error}"),
                "make it, or correct its path",
            );
        }
    };
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let us = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 {
        return Finding::bad(
            check,
            format!("{shown} has mode {mode:04o}"),
            format!("chmod 0600 {shown}"),
        );
    }
    // Root may look at every service's files; each belongs to that service's own user.
    if us != 0 && owner != us {
        return Finding::bad(
            check,
            format!("{shown} belongs to user {owner}, this is user {us}"),
            format!("run the doctor as the service's user or as root, or chown {us} {shown}"),
        );
    }
    Finding::good(check, format!("{shown} mode {mode:04o}, owner {owner}"))
}

/// A file that others cannot reach: closed itself, or in a folder that is.
pub(crate) fn private(check: &str, path: &Path) -> Finding {
    let folder = path.parent().map(std::fs::metadata);
    if folder.is_some_and(|folder| folder.is_ok_and(|folder| folder.mode() & 0o077 == 0)) {
        return readable(check, path, "give the file to the service's user");
    }
    secret(check, path)
}

/// A file that must be there and readable.
pub(crate) fn readable(check: &str, path: &Path, mend: &str) -> Finding {
    match std::fs::File::open(path) {
        Ok(_) => Finding::good(check, path.display().to_string()),
        Err(error) => Finding::bad(check, format!("{}: {error}", path.display()), mend),
    }
}

/// A certificate that is valid now and for a while.
fn certificate(check: &str, path: &Path, now: Option<i64>) -> Finding {
    let now = now.unwrap_or_else(|| kit::clock::micros(kit::clock::now()) / 1_000_000);
    match validity(path) {
        Err(why) if !path.exists() => Finding::bad(
            check,
            format!("{}: {why}", path.display()),
            "issue it, or correct its path (development: `latchkey dev init` makes what is missing; then restart the service)",
        ),
        Err(why) => Finding::bad(
            check,
            format!("{}: {why}", path.display()),
            "replace it with a PEM certificate",
        ),
        Ok((from, _)) if now < from => Finding::bad(
            check,
            format!("{} is not valid before {}", path.display(), day(from)),
            "set this host's clock, or issue the certificate again",
        ),
        Ok((_, until)) if until - now < seconds(SOON) => Finding::bad(
            check,
            format!("{} is valid until {} only", path.display(), day(until)),
            "issue it again, and restart what uses it (development: remove the pki folder, then `latchkey dev init`)",
        ),
        Ok((_, until)) => Finding::good(check, format!("valid until {}", day(until))),
    }
}

fn validity(path: &Path) -> Result<(i64, i64), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let (_, block) = parse_x509_pem(&pem).map_err(|error| chain(&error))?;
    let certificate = block.parse_x509().map_err(|error| chain(&error))?;
    let validity = certificate.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// Permits, certificates and the trail all stand on the clock.
pub(crate) fn clock() -> Finding {
    let now = kit::clock::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let said = day(seconds(now));
    if now < WRITTEN {
        return Finding::bad(
            "clock",
            format!("it says {said}, before Latchkey was written"),
            "set it, and run NTP",
        );
    }
    Finding::good("clock", format!("{said} (UTC)"))
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%F %H:%M").to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::dev::layout::Layout;
    use crate::dev::pki;
    use crate::file;

    #[test]
    fn a_secret_others_can_read_is_a_finding_with_its_mend() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!secret("pin", file.path()).is_bad());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let finding = secret("pin", file.path());
        let trouble = finding.outcome.unwrap_err();
        assert!(
            trouble.wrong.contains("0640") && trouble.mend.starts_with("chmod 0600"),
            "{trouble:?}"
        );
        assert!(secret("pin", Path::new("/nonexistent")).is_bad());
    }

    #[test]
    fn certificates_are_checked_against_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        layout
            .folders()
            .iter()
            .for_each(|folder| file::private_folder(folder).unwrap());
        pki::make(&layout).unwrap();
        let path = layout.certificate("reset");
        assert!(!certificate("c", &path, None).is_bad());
        let (from, until) = validity(&path).unwrap();
        for (now, bad) in [
            (from - 1, true),
            (from, false),
            (until - 15 * 86_400, false),
            (until - 86_400, true),
        ] {
            assert_eq!(certificate("c", &path, Some(now)).is_bad(), bad, "{now}");
        }
        assert!(certificate("c", &layout.key("reset"), None).is_bad());
    }
}
