//! Two ends whose private keys are in a token: SoftHSM finds its tokens through an environment variable, so the test runs
//! in a process of its own, after a ceremony in another.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed; figures are told"
)]

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use hsm::{Role, Subject, Token, TokenConfig, ceremony};
use kit::{
    Listener, Server, Tasks,
    config::{Client, Tls},
    shutdown,
};
use latchkey_proto::audit::v1::{
    permit_service_client::PermitServiceClient, permit_service_server::PermitServiceServer,
};
use rcgen::CertificateSigningRequestParams;
use rustls_pki_types::CertificateSigningRequestDer;

use support::{DOMAIN, Echo, Pki, because};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const DIRECTORY: &str = "KIT_TOKEN_TEST";
const CEREMONY: &str = "KIT_TOKEN_CEREMONY";
const SERVER: &str = "spiffe://kit.test/server";
const CALLER: &str = "spiffe://kit.test/caller";

/// Runs this test again, alone, with tokens below `directory`.
fn again(name: &str, directory: &Path, act: Option<&str>) {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command
        .args([name, "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
        .env(DIRECTORY, directory)
        .envs(act.map(|act| (act, "1")));
    let output = command.output().expect("run");
    let said = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let out = said(&output.stdout);
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}\n{}",
        said(&output.stderr)
    );
    for figure in said(&output.stderr)
        .lines()
        .filter(|line| line.starts_with("handshake"))
    {
        eprintln!("{figure}");
    }
}

fn token_config(directory: &Path) -> TokenConfig {
    let text = format!(
        "module = \"{MODULE}\"\ntoken_label = \"tls\"\npin_file = {:?}\n",
        directory.join("tls.pin")
    );
    toml::from_str(&text).expect("a token")
}

fn plan(directory: &Path) -> PathBuf {
    let path = directory.join("plan.toml");
    let text = format!(
        "module = \"{MODULE}\"\ncreate_pins = true\n[[token]]\nlabel = \"tls\"\nrole = \"tls\"\n\
         so_pin_file = \"tls.so\"\npin_file = \"tls.pin\"\nkeys = [\"tls-1\", \"tls-2\", \"transcript\"]\n"
    );
    fs::write(&path, text).expect("written");
    path
}

/// Issues what the request asks for and puts it into the token.
async fn certify(pki: &Pki, directory: &Path, label: &str, uri: &str) -> Tls {
    let token = Token::open(&token_config(directory), Role::Tls)
        .await
        .expect("a token");
    let subject = Subject::Service {
        uri: uri.to_owned(),
        dns: Vec::new(),
    };
    let request = token.certificate_request(label, &subject).await;
    let request = CertificateSigningRequestDer::from(request.expect("a request"));
    let request = CertificateSigningRequestParams::from_der(&request).expect("a good request");
    let issued = request.signed_by(&pki.issuer).expect("a certificate");
    let chain = vec![issued.der().to_vec()];
    token
        .store_certificates(label, chain)
        .await
        .expect("stored");
    Tls {
        certificate_file: None,
        key_file: None,
        token: Some(token_config(directory)),
        token_key: label.to_owned(),
        ..Tls::files("", "", pki.dir.path().join("ca.pem"), DOMAIN)
    }
}

#[test]
fn both_ends_sign_in_a_token() {
    let name = "both_ends_sign_in_a_token";
    let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) else {
        let directory = tempfile::tempdir().expect("a directory");
        let tokens = directory.path().join("tokens");
        fs::create_dir(&tokens).expect("made");
        let conf = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(directory.path().join("softhsm2.conf"), conf).expect("written");
        again(name, directory.path(), Some(CEREMONY));
        again(name, directory.path(), None);
        return;
    };
    if env::var_os(CEREMONY).is_some() {
        let plan = ceremony::Plan::load(&plan(&directory)).expect("a plan");
        ceremony::run(&plan, "2026-01-01T00:00:00Z").expect("held");
        return;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(talk(&directory));
}

async fn talk(directory: &Path) {
    let pki = Pki::new();
    let server_tls = certify(&pki, directory, "tls-1", SERVER).await;
    let caller_tls = certify(&pki, directory, "tls-2", CALLER).await;
    let files = pki.leaf("files", &[SERVER]);
    let mut config = support::config(pki.dir.path(), &files);
    config.tls = server_tls;
    config.max_concurrent_requests = 8;
    let listener = Listener::bind(config.listen).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (trigger, shutdown) = shutdown();
    let tasks = Tasks::new(shutdown.clone());
    let server = Server::new("echo", &config).expect("a server");
    let served = server
        .add(PermitServiceServer::new(Echo))
        .serve(listener, shutdown);
    tasks.spawn("server", async move { served.await.expect("served") });
    let client = |tls: &Tls| {
        let client = Client {
            endpoint: format!("https://{address}"),
            peer: SERVER.parse().expect("a name"),
            timeout_ms: 10_000,
        };
        let channel = kit::client::channel(&client, tls).expect("a channel");
        PermitServiceClient::new(channel)
    };
    let mut first = client(&caller_tls);
    let told = first.authorise(because("x")).await.expect("an answer");
    assert_eq!(told.into_inner().policy_ids[0], CALLER);
    let with_files = pki.leaf("caller", &[CALLER]);
    client(&with_files)
        .authorise(because("x"))
        .await
        .expect("a server's key in a token is nothing to a client");

    // Pulled: no new handshake, and what is open goes on.
    let (here, away) = (directory.join("tokens"), directory.join("away"));
    fs::rename(&here, &away).expect("pulled");
    fs::create_dir(&here).expect("an empty reader");
    let refused = client(&with_files).authorise(because("x")).await;
    assert!(
        kit::status::is_transient(&refused.expect_err("no handshake without the token")),
        "a caller may try again"
    );
    first
        .authorise(because("x"))
        .await
        .expect("an open connection needs no token");

    // Put back: it recovers by itself.
    fs::remove_dir(&here).expect("removed");
    fs::rename(&away, &here).expect("put back");
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(status) = client(&with_files).authorise(because("x")).await {
        assert!(Instant::now() < end, "not recovered: {status}");
        tokio::task::yield_now().await;
    }
    measure(&pki, &config.tls, &with_files).await;
    trigger.fire();
    tasks.join().await;
}

/// What a handshake costs whose server's key is in the token, beside the same in a file: printed, not judged.
async fn measure(pki: &Pki, token: &Tls, caller: &Tls) {
    let mut medians = Vec::new();
    for (what, tls) in [("file", &pki.leaf("measured", &[SERVER])), ("token", token)] {
        let acceptor = kit::tls::Acceptor::new(tls).expect("an acceptor");
        let peer = SERVER.parse().expect("a name");
        let connector = kit::tls::Connector::new(caller, &peer).expect("a connector");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("bound");
        let address = listener.local_addr().expect("an address");
        let mut times = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            let near = async {
                let tcp = tokio::net::TcpStream::connect(address).await?;
                connector.connect(address.ip().into(), tcp).await
            };
            let far = async {
                let (tcp, _) = listener.accept().await?;
                acceptor.accept(tcp).await
            };
            let (near, far) = tokio::join!(near, far);
            drop((near.expect("a client"), far.expect("a server")));
            times.push(begun.elapsed());
        }
        times.sort();
        medians.push(format!("{what}: {:?}", times[times.len() / 2]));
    }
    eprintln!("handshake, median of 200: {}", medians.join(", "));
}
