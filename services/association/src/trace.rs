//! The frame trace, for who has to see what went over the wire: one frame a line,
//! `SECONDS.MICROS METER DIRECTION HEX`. A ciphered frame is written whole. Of a plain one only the wrapper header and the
//! tag are: an AARQ may hold a password, an APDU a command. DIRECTION is `>` to the meter, `<` from it.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path};

use dlms::{Frame, Reassembler, security::is_ciphered, wrapper::HEADER};
use kit::{StartError, clock};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

/// Lines that wait for the disk; more are left out.
const WAITING_MAX: usize = 1024;

/// Where lines go; nowhere by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Option<mpsc::Sender<String>>);

/// The trace of one association.
pub(crate) struct MeterTrace {
    lines: Option<mpsc::Sender<String>>,
    meter_id: String,
    incoming: Reassembler,
}

/// Writes the lines to the file.
pub(crate) struct Writer {
    file: tokio::fs::File,
    lines: mpsc::Receiver<String>,
}

impl Trace {
    /// Opens the file for appending; it is readable by us alone.
    pub(crate) fn open(path: &Path) -> Result<(Self, Writer), StartError> {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        let file =
            file.map_err(|e| StartError::context(format!("trace_file {}", path.display()), e))?;
        let (sender, lines) = mpsc::channel(WAITING_MAX);
        Ok((
            Self(Some(sender)),
            Writer {
                file: tokio::fs::File::from_std(file),
                lines,
            },
        ))
    }

    pub(crate) fn of(&self, meter_id: &str) -> MeterTrace {
        MeterTrace {
            lines: self.0.clone(),
            meter_id: meter_id.to_owned(),
            incoming: Reassembler::default(),
        }
    }
}

impl MeterTrace {
    /// A frame that goes to the meter.
    pub(crate) fn sent(&mut self, frame: &[u8]) {
        self.write('>', frame);
    }

    /// Octets from the meter, however they are cut.
    pub(crate) fn received(&mut self, octets: &[u8]) {
        if self.lines.is_none() {
            return;
        }
        self.incoming.push(octets);
        while let Ok(Some(frame)) = self.incoming.next() {
            if let Ok(frame) = Frame::encode(&frame) {
                self.write('<', &frame);
            }
        }
    }

    fn write(&self, direction: char, frame: &[u8]) {
        let Some(lines) = &self.lines else { return };
        let micros = clock::micros(clock::now());
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let line = format!(
            "{seconds}.{micros:06} {} {direction} {}\n",
            self.meter_id,
            shown(frame)
        );
        if lines.try_send(line).is_err() {
            tracing::debug!("the trace file is behind; a frame is left out");
        }
    }
}

/// What may be seen of a frame.
fn shown(frame: &[u8]) -> String {
    let apdu = frame.get(HEADER..).unwrap_or_default();
    if is_ciphered(apdu) {
        return hex::encode(frame);
    }
    let header = frame.get(..HEADER.saturating_add(1)).unwrap_or(frame);
    format!("{}.. ({} octets, plain)", hex::encode(header), apdu.len())
}

impl Writer {
    /// Writes until the last [`Trace`] is gone.
    pub(crate) async fn run(mut self) {
        while let Some(line) = self.lines.recv().await {
            let written = async {
                self.file.write_all(line.as_bytes()).await?;
                self.file.flush().await
            };
            if let Err(error) = written.await {
                tracing::error!(%error, "the trace file cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(apdu: &[u8]) -> Vec<u8> {
        Frame {
            source: 1,
            destination: 1,
            apdu: apdu.to_vec(),
        }
        .encode()
        .unwrap()
    }

    #[test]
    fn only_ciphered_frames_are_shown_whole() {
        let glo = frame(&[0xc8, 0x03, 0x30, 0, 0]);
        assert_eq!(shown(&glo), hex::encode(&glo));
        let aarq = frame(&[0x60, 0x04, 0xac, b'P', b'W', b'D']);
        assert_eq!(shown(&aarq), "000100010001000660.. (6 octets, plain)");
        let get = frame(&[0xc0, 1, 0xc1, 0, 3]);
        assert!(!shown(&get).contains("c1"), "{}", shown(&get));
        assert_eq!(shown(&[]), ".. (0 octets, plain)");
    }

    #[tokio::test]
    async fn one_frame_a_line_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let (trace, writer) = Trace::open(&path).unwrap();
        let mut of = trace.of("m-1");
        drop(trace);
        of.sent(&frame(&[0xcb, 1]));
        let answers = [frame(&[0xcf, 2]), frame(&[0xcc, 3])].concat();
        for octet in answers.chunks(5) {
            of.received(octet);
        }
        drop(of);
        writer.run().await;
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split(' ').skip(1).collect())
            .collect();
        let expected = [
            ("m-1", ">", "00010001000100 02cb01"),
            ("m-1", "<", "00010001000100 02cf02"),
            ("m-1", "<", "00010001000100 02cc03"),
        ];
        let expected: Vec<Vec<String>> = expected
            .iter()
            .map(|(m, d, h)| vec![(*m).to_owned(), (*d).to_owned(), h.replace(' ', "")])
            .collect();
        assert_eq!(lines, expected);
    }
}
