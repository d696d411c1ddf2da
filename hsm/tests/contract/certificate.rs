//! Certificate requests and certificates, looked at by OpenSSL's program, which knows nothing of ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use hsm::{Curve, Error, Role, Subject, Token, TokenConfig};

use crate::lab::{Lab, scenario};

const URI: &str = "spiffe://hsm.test/latchkey/custody";

/// Runs the program; its exit code, and all it printed.
fn ceremony(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_latchkey-ceremony"));
    let output = lab.command(program).args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

fn openssl(lab: &Lab, line: &str) -> (bool, String) {
    let output = Command::new("openssl")
        .args(line.split_whitespace())
        .current_dir(lab.path("."))
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

fn good(lab: &Lab, line: &str) -> String {
    let (ok, printed) = openssl(lab, line);
    assert!(ok, "openssl {line}: {printed}");
    printed
}

/// A token for one service's TLS key, made as any other.
fn tls_token(lab: &Lab) {
    let plan = format!(
        "module = \"{}\"\ncreate_pins = true\n[[token]]\nlabel = \"tls-custody\"\nrole = \"tls\"\n\
         so_pin_file = \"tls.so\"\npin_file = \"tls.pin\"\n",
        lab.module().display()
    );
    fs::write(lab.path("tls.toml"), plan).unwrap();
    let (ok, printed) = ceremony(lab, &["--plan", "tls.toml"]);
    assert!(ok, "{printed}");
}

fn tls_config(lab: &Lab) -> TokenConfig {
    TokenConfig {
        token_label: "tls-custody".to_owned(),
        pin_file: Some(lab.path("tls.pin")),
        ..lab.config(Role::Custody)
    }
}

fn arguments<'a>(
    lab: &Lab,
    verb: &[&'a str],
    token: [&'a str; 2],
    object: &'a str,
) -> Vec<&'a str> {
    let [token, pin] = token;
    let mut all = verb.to_vec();
    all.extend([
        "--module",
        lab.module().to_str().unwrap(),
        "--token",
        token,
        "--pin-file",
        pin,
    ]);
    all.extend(["--object", object]);
    all
}

scenario! {
    /// From an empty token to a certificate in it: request, issue, import, as an administrator does it.
    async fn a_tls_key_gets_its_certificate(lab) {
        tls_token(lab);
        let token = ["tls-custody", "tls.pin"];
        let mut csr = arguments(lab, &["csr"], token, "tls-1");
        csr.extend(["--uri", URI, "--dns", "custody.test"]);
        let (ok, pem) = ceremony(lab, &csr);
        assert!(ok && pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{pem}");
        fs::write(lab.path("tls.csr"), &pem).unwrap();
        let said = good(lab, "req -in tls.csr -verify -noout -text");
        for part in [&format!("URI:{URI}"), "DNS:custody.test", "CN = custody", "P-256", "Digital Signature"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        good(lab, "ecparam -name prime256v1 -genkey -noout -out ca.key");
        good(lab, "req -x509 -new -key ca.key -subj /CN=authority -days 30 -out ca.pem");
        good(lab, "x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copyall -days 20 -out tls.pem");

        // another key's certificate is refused, and nothing is changed
        let import = |file: &'static str| {
            let mut all = arguments(lab, &["certificate", "import"], token, "tls-1");
            all.extend(["--file", file]);
            all
        };
        let (ok, printed) = ceremony(lab, &import("ca.pem"));
        assert!(!ok && printed.contains("is not that of the token's key"), "{printed}");
        let chain = ["tls.pem", "ca.pem"].map(|name| fs::read_to_string(lab.path(name)).unwrap());
        fs::write(lab.path("chain.pem"), chain.concat()).unwrap();
        let (ok, printed) = ceremony(lab, &import("chain.pem"));
        assert!(ok && printed.contains("CN=authority"), "{printed}");
        // again: an exchange, not a second one
        let (ok, _) = ceremony(lab, &import("chain.pem"));
        assert!(ok);
        let (ok, shown) = ceremony(lab, &arguments(lab, &["certificate", "show"], token, "tls-1"));
        assert!(ok && shown.matches("BEGIN CERTIFICATE").count() == 2, "{shown}");
        fs::write(lab.path("shown.pem"), &shown).unwrap();
        good(lab, "verify -CAfile ca.pem shown.pem");

        let token = Token::open(&tls_config(lab), Role::Tls).await.unwrap();
        assert_eq!(token.certificates("tls-1").await.unwrap().len(), 2);
        let (curve, public) = token.certified_key("tls-1").await.unwrap();
        let signature = token.sign_certified("tls-1", b"handshake").await.unwrap();
        assert!(curve.verifies(&public[1..], b"handshake", &signature));
        assert!(token.remove_certificates("tls-1").await.unwrap());
        assert!(!token.remove_certificates("tls-1").await.unwrap());
        assert!(token.certificates("tls-1").await.unwrap().is_empty());
    }
}

scenario! {
    /// Each key of the head-end, and the subject and key usage that meters ask for.
    async fn the_head_ends_keys_ask_for_certificates(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let title = *b"MMM\0\0\0\0\x01";
        for (label, usage, algorithm) in [
            ("sign-p256-1", "Digital Signature", "ecdsa-with-SHA256"),
            ("sign-p384-1", "Digital Signature", "ecdsa-with-SHA384"),
            ("agree-p256-1", "Key Agreement", "ecdsa-with-SHA256"),
            ("agree-p384-1", "Key Agreement", "ecdsa-with-SHA384"),
        ] {
            let subject = if label.starts_with("sign") {
                Subject::Signing { title }
            } else {
                Subject::Agreement { title }
            };
            let der = token.certificate_request(label, &subject).await.unwrap();
            fs::write(lab.path("dlms.csr"), &der).unwrap();
            let said = good(lab, "req -in dlms.csr -inform DER -verify -noout -text");
            for part in ["CN = 4D4D4D0000000001", usage, algorithm] {
                assert!(said.contains(part), "{label}, {part}: {said}");
            }
            let parsed = good(lab, "asn1parse -in dlms.csr -inform DER");
            assert!(parsed.contains("PRINTABLESTRING"), "{parsed}");
        }
        for (label, subject) in [
            ("sign-p256-1", Subject::Agreement { title }),
            ("agree-p256-1", Subject::Signing { title }),
            ("sign-p256-1", Subject::Service { uri: URI.to_owned(), dns: Vec::new() }),
            ("kek-ek-1", Subject::Signing { title }),
        ] {
            let refused = token.certificate_request(label, &subject).await;
            assert!(matches!(refused, Err(Error::Certificate { .. })), "{label}: {refused:?}");
        }
        let refused = token.sign_certified("transcript", b"x").await;
        assert!(matches!(refused, Err(Error::KeyNotFound { .. })), "{refused:?}");
        assert_eq!(token.certified_key("sign-p384-1").await.unwrap().0, Curve::P384);
    }
}
