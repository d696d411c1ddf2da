//! `latchkey-ceremony`: makes the tokens and their keys from one reviewed plan, or verifies the
//! transcript of a ceremony; and writes requests for certificates of those keys.

#![forbid(unsafe_code)]

#[path = "ceremony/certificate.rs"]
mod certificate;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use hsm::ceremony::{self, Plan, Transcript};
use hsm::{Error, Role};

/// Makes the tokens and their keys from a plan and prints a signed transcript. On tokens that have
/// keys it changes nothing and refuses if they differ from the plan.
#[derive(Parser)]
#[command(
    name = "latchkey-ceremony",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<certificate::Command>,
    /// The plan, TOML. PINs are in the files it names, never here.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "verify",
        conflicts_with = "verify"
    )]
    plan: Option<PathBuf>,
    /// Write the transcript here instead of printing it. One that is there already is kept, and
    /// must tell of the same tokens and keys.
    #[arg(long, value_name = "FILE", requires = "plan")]
    transcript: Option<PathBuf>,
    /// Verify a transcript. Needs no token.
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match (arguments.command, &arguments.verify, &arguments.plan) {
        (Some(command), ..) => certificate::run(command),
        (None, Some(transcript), _) => verify(transcript),
        (None, None, Some(plan)) => run(plan, arguments.transcript.as_deref()),
        // clap asks for one of the three
        (None, None, None) => return ExitCode::FAILURE,
    };
    match outcome {
        Ok(text) => print(&mut std::io::stdout(), &text),
        Err(error) => {
            print(
                &mut std::io::stderr(),
                &format!("latchkey-ceremony: {error}\n"),
            );
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Path, to: Option<&Path>) -> Result<String, Error> {
    let plan = Plan::load(plan)?;
    let transcript = ceremony::run(&plan, &jiff::Timestamp::now().to_string())?;
    let text = transcript.render()?;
    let Some(path) = to else {
        return Ok(text);
    };
    if path.exists() {
        let kept = Transcript::verify(&read(path)?)?;
        if !kept.same_tokens(&transcript) {
            return Err(Error::Transcript {
                why: format!(
                    "{} tells of other tokens or keys; move it away",
                    path.display()
                ),
            });
        }
        return Ok(format!(
            "unchanged, as in {}\n{}",
            path.display(),
            story(&kept)?
        ));
    }
    write(path, &text)?;
    Ok(format!(
        "written to {}\n{}",
        path.display(),
        story(&transcript)?
    ))
}

fn verify(path: &Path) -> Result<String, Error> {
    let transcript = Transcript::verify(&read(path)?)?;
    Ok(format!(
        "{} verifies\n{}",
        path.display(),
        story(&transcript)?
    ))
}

/// The transcript in a few lines.
fn story(transcript: &Transcript) -> Result<String, Error> {
    let body = &transcript.body;
    let mut story = format!(
        "date {}\nfingerprint {}\n",
        body.date,
        transcript.fingerprint()?
    );
    for token in &body.tokens {
        let role = token.role.as_str();
        story += &format!("token {} ({role}) serial {}\n", token.label, token.serial);
        for key in &token.keys {
            let public = key.public_key.as_ref().map(|key| format!(" public {key}"));
            let check = key
                .check_value
                .as_ref()
                .map(|value| format!(" check value {value}"));
            let more = public.or(check).unwrap_or_default();
            let backup = key.backup.as_ref().map(|backup| {
                let how = if backup.cloned.is_some() {
                    ", cloned from there now"
                } else {
                    ""
                };
                format!(" in backup token {}{how}", backup.token)
            });
            story += &format!("  {}{}{more}\n", key.label, backup.unwrap_or_default());
        }
        for label in &token.destroyed {
            story += &format!("  {label} destroyed\n");
        }
        if token.role == Role::Custody && token.keys.iter().all(|key| key.backup.is_none()) {
            story += NO_BACKUP;
        }
    }
    Ok(story)
}

/// What a security officer should know of a token without one.
const NO_BACKUP: &str = "  no backup token: its keys can be neither restored nor rotated\n";

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that is either whole or not there.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let written = std::fs::File::create(&draft)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| std::fs::rename(&draft, path));
    written.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn print(to: &mut dyn std::io::Write, text: &str) -> ExitCode {
    match to.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
