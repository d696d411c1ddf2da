use std::fs;

use secrecy::ExposeSecret as _;

use super::*;

fn file(mode: u32, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pin");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

#[test]
fn a_pin_is_one_line() {
    let (_directory, path) = file(0o600, b"123456\n");
    assert_eq!(read_pin(&path).unwrap().expose_secret(), "123456");
    for bad in [
        &b""[..],
        b"\n",
        b"12 34\n",
        b"1234\n5678\n",
        b"\xFF\xFE",
        &[b'1'; 300],
    ] {
        let (_directory, path) = file(0o400, bad);
        assert!(matches!(read_pin(&path), Err(Error::PinFile { .. })));
    }
}

#[test]
fn a_pin_others_can_read_is_refused() {
    for mode in [0o644, 0o640, 0o604, 0o620] {
        let (_directory, path) = file(mode, b"123456\n");
        let error = read_pin(&path).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && !error.contains("123456"),
            "{error}"
        );
    }
}

fn config() -> TokenConfig {
    let mut config = TokenConfig::new("/module.so", "custody", "/pin");
    config.pin_file = None;
    config
}

#[test]
fn a_pin_has_one_source() {
    let error = Source::of(&config()).unwrap_err().to_string();
    assert!(
        error.contains("exactly one") && error.contains("custody"),
        "{error}"
    );
    let mut one = config();
    one.pin_prompt = true;
    assert_eq!(Source::of(&one).unwrap(), Source::Prompt);
    one.pin_credential = Some("pin".to_owned());
    assert!(Source::of(&one).is_err());
    one.pin_prompt = false;
    assert_eq!(
        Source::of(&one).unwrap(),
        Source::Credential("pin".to_owned())
    );
    one.pin_file = Some("/pin".into());
    assert!(Source::of(&one).is_err());
}

#[test]
fn a_credential_is_a_name_and_no_path() {
    for name in ["", "..", ".hidden", "../pin", "a/b", "a b", "pin\n"] {
        let error = credential(name).unwrap_err().to_string();
        assert!(error.contains("letters, digits"), "{error}");
    }
}

#[test]
fn a_refused_pin_is_known_again_and_not_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Refused::new(directory.path().join("pin.refused"));
    let (wrong, right) = (SecretString::from("271828"), SecretString::from("314159"));
    assert!(!refused.names("serial", &wrong));
    refused.note("custody", "serial", &wrong).unwrap();
    assert!(refused.names("serial", &wrong));
    assert!(!refused.names("serial", &right));
    assert!(!refused.names("another", &wrong));
    let text = fs::read_to_string(refused.path()).unwrap();
    assert!(
        !text.contains("271828") && text.contains("remove this file"),
        "{text}"
    );
    let mode = fs::metadata(refused.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // of a note that nobody can make sense of, the worst is believed
    fs::write(refused.path(), "garbage\n").unwrap();
    assert!(refused.names("serial", &right));
    refused.forget();
    assert!(!refused.names("serial", &wrong));
}

#[test]
fn a_typed_pin_is_not_shown() {
    use std::io::{Read as _, Write as _};

    use rustix::pty::{self, OpenptFlags};
    use rustix::termios::{LocalModes, tcgetattr};

    let master = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap();
    let open = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        options.open(name.to_str().unwrap()).unwrap()
    };
    let terminal = open();
    let asking = open();
    let asked = std::thread::spawn(move || prompt::ask_on(asking, "PIN: "));
    let mut human = File::from(master);
    let mut shown = [0; 64];
    // the question comes when the terminal is silent
    let length = human.read(&mut shown).unwrap();
    assert_eq!(&shown[..length], b"PIN: ");
    human.write_all(b"3144\x7F159\n").unwrap();
    assert_eq!(asked.join().unwrap().unwrap().expose_secret(), "314159");
    let length = human.read(&mut shown).unwrap();
    assert_eq!(&shown[..length], b"\r\n", "nothing of the PIN");
    assert!(
        tcgetattr(&terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    );
}
