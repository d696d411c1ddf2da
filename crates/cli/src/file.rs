//! Files this program makes: never half-written, never readable by others if they hold a secret.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::failure::Failure;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its owner alone (0600).
    Secret,
    /// Everybody (0644).
    Public,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Secret => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Writes a file in one step: whoever opens the path sees the old content or the new, and no reader sees a secret
/// before its mode is set.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>, mode: Mode) -> Result<(), Failure> {
    let staged = staged(path);
    let result = stage(&staged, content.as_ref(), mode).and_then(|()| fs::rename(&staged, path));
    result.map_err(|error| {
        // What is left of a failed attempt is of no use, and may be gone already.
        let _ = fs::remove_file(&staged);
        Failure::file("write", path, &error)
    })
}

/// Writes a file unless it is there. Says whether it wrote.
pub(crate) fn write_new(
    path: &Path,
    content: impl AsRef<[u8]>,
    mode: Mode,
) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    write(path, content, mode).map(|()| true)
}

/// Makes a folder that only its owner may enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::file("make the folder", path, &error))
}

pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))
}

/// Reads a file that may hold a key: what was read is wiped when it is no longer wanted.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read(path).map(Zeroizing::new)
}

fn stage(path: &Path, content: &[u8], mode: Mode) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode.bits())
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        assert!(write_new(&path, "1", Mode::Secret).unwrap());
        assert!(!write_new(&path, "2", Mode::Secret).unwrap());
        assert_eq!(read(&path).unwrap(), "1");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
