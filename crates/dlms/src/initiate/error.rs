//! ConfirmedServiceError: what a server says instead of a confirmed service's answer.

use alloc::vec::Vec;

use crate::axdr::Reader;
use crate::error::Error;

/// Tag of a ConfirmedServiceError.
pub(crate) const CONFIRMED_SERVICE_ERROR: u8 = 0x0E;

/// ConfirmedServiceError, tag 0E (IEC 62056-5-3). With logical names only the error of the initiate service is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfirmedServiceError {
    /// The service that failed.
    pub service: ConfirmedService,
    /// Why.
    pub error: ServiceError,
}

/// What is wrong, and what about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceError {
    /// What it is about.
    pub kind: ServiceErrorKind,
    /// What is wrong with it; a value the standard does not name is kept.
    pub value: u8,
}

impl ConfirmedServiceError {
    /// An initiate error with this value: 1 DLMS version too low, 2 incompatible conformance, 3 PDU size too short,
    /// 4 refused by the VDE handler.
    #[must_use]
    pub const fn initiate(value: u8) -> Self {
        Self {
            service: ConfirmedService::Initiate,
            error: ServiceError {
                kind: ServiceErrorKind::Initiate,
                value,
            },
        }
    }

    /// Decodes an APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, or a service or kind of error that the standard does not have, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(
            CONFIRMED_SERVICE_ERROR,
            "the tag of a ConfirmedServiceError (0E)",
        )?;
        let error = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(error)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// What follows the tag.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            service: read_named(
                reader,
                ConfirmedService::from_octet,
                "a confirmed service (01..13)",
            )?,
            error: ServiceError {
                kind: read_named(
                    reader,
                    ServiceErrorKind::from_octet,
                    "a kind of service error (00..07, 09, 0A)",
                )?,
                value: reader.u8()?,
            },
        })
    }

    pub(crate) fn encode_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[
            CONFIRMED_SERVICE_ERROR,
            self.service.octet(),
            self.error.kind.octet(),
            self.error.value,
        ]);
    }

    /// The name of what is wrong.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.error.name()
    }
}

fn read_named<T>(
    reader: &mut Reader<'_>,
    from: impl Fn(u8) -> Option<T>,
    expected: &'static str,
) -> Result<T, Error> {
    let offset = reader.offset();
    let found = reader.u8()?;
    from(found).ok_or(Error::Unexpected {
        offset,
        expected,
        found,
    })
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $octet:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$item])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of the standard.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// From the octet on the wire.
            #[must_use]
            pub const fn from_octet(octet: u8) -> Option<Self> {
                match octet {
                    $($octet => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The octet on the wire.
            #[must_use]
            pub const fn octet(self) -> u8 {
                match self {
                    $(Self::$variant => $octet,)*
                }
            }

            /// The name the standard gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

choice! {
    /// The service that failed.
    ConfirmedService {
        /// initiate.
        Initiate = 1, "initiate";
        /// get-status.
        GetStatus = 2, "get-status";
        /// get-name-list.
        GetNameList = 3, "get-name-list";
        /// get-variable-attribute.
        GetVariableAttribute = 4, "get-variable-attribute";
        /// read.
        Read = 5, "read";
        /// write.
        Write = 6, "write";
        /// get-data-set-attribute.
        GetDataSetAttribute = 7, "get-data-set-attribute";
        /// get-TI-attribute.
        GetTiAttribute = 8, "get-TI-attribute";
        /// change-scope.
        ChangeScope = 9, "change-scope";
        /// start.
        Start = 10, "start";
        /// stop.
        Stop = 11, "stop";
        /// resume.
        Resume = 12, "resume";
        /// make-usable.
        MakeUsable = 13, "make-usable";
        /// initiate-load.
        InitiateLoad = 14, "initiate-load";
        /// load-segment.
        LoadSegment = 15, "load-segment";
        /// terminate-load.
        TerminateLoad = 16, "terminate-load";
        /// initiate-upload.
        InitiateUpload = 17, "initiate-upload";
        /// upload-segment.
        UploadSegment = 18, "upload-segment";
        /// terminate-upload.
        TerminateUpload = 19, "terminate-upload";
    }
}

choice! {
    /// What an error is about.
    ServiceErrorKind {
        /// The application or its context.
        ApplicationReference = 0, "application-reference";
        /// A resource of the hardware.
        HardwareResource = 1, "hardware-resource";
        /// The state of the virtual device.
        VdeStateError = 2, "vde-state-error";
        /// The service itself.
        Service = 3, "service";
        /// The definition of the object.
        Definition = 4, "definition";
        /// The access to the object.
        Access = 5, "access";
        /// The initiate service.
        Initiate = 6, "initiate";
        /// The load of a data set.
        LoadDataSet = 7, "load-data-set";
        /// A task invocation.
        Task = 9, "task";
        /// Something else.
        Other = 10, "other";
    }
}

impl ServiceError {
    /// The name the standard gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        let names: &[&str] = match self.kind {
            ServiceErrorKind::ApplicationReference => &[
                "other",
                "time-elapsed",
                "application-unreachable",
                "application-reference-invalid",
                "application-context-unsupported",
                "provider-communication-error",
                "deciphering-error",
            ],
            ServiceErrorKind::HardwareResource => &[
                "other",
                "memory-unavailable",
                "processor-resource-unavailable",
                "mass-storage-unavailable",
                "other-resource-unavailable",
            ],
            ServiceErrorKind::VdeStateError => &[
                "other",
                "no-dlms-context",
                "loading-data-set",
                "status-nochange",
                "status-inoperable",
            ],
            ServiceErrorKind::Service => &["other", "pdu-size", "service-unsupported"],
            ServiceErrorKind::Definition => &[
                "other",
                "object-undefined",
                "object-class-inconsistent",
                "object-attribute-inconsistent",
            ],
            ServiceErrorKind::Access => &[
                "other",
                "scope-of-access-violated",
                "object-access-violated",
                "hardware-fault",
                "object-unavailable",
            ],
            ServiceErrorKind::Initiate => &[
                "other",
                "dlms-version-too-low",
                "incompatible-conformance",
                "pdu-size-too-short",
                "refused-by-the-VDE-handler",
            ],
            ServiceErrorKind::LoadDataSet => &[
                "other",
                "primitive-out-of-sequence",
                "not-loadable",
                "dataset-size-too-large",
                "not-awaited-segment",
                "interpretation-failure",
                "storage-failure",
                "data-set-not-ready",
            ],
            ServiceErrorKind::Task => &[
                "other",
                "no-remote-control",
                "ti-stopped",
                "ti-running",
                "ti-unusable",
            ],
            ServiceErrorKind::Other => &["other"],
        };
        named(names, self.value)
    }
}

const fn named(names: &[&'static str], value: u8) -> &'static str {
    match (names, value) {
        ([name, ..], 0) => name,
        ([_, rest @ ..], 1..) => named(rest, value.saturating_sub(1)),
        ([], _) => "unknown-error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_every_service_is_named_and_both_ways() {
        for service in ConfirmedService::ALL {
            for kind in ServiceErrorKind::ALL {
                let error = ConfirmedServiceError {
                    service: *service,
                    error: ServiceError {
                        kind: *kind,
                        value: 3,
                    },
                };
                assert_eq!(ConfirmedServiceError::decode(&error.encode()), Ok(error));
            }
        }
        let table = [
            ([0x0E, 1, 6, 1], "initiate", "dlms-version-too-low"),
            ([0x0E, 1, 6, 4], "initiate", "refused-by-the-VDE-handler"),
            ([0x0E, 5, 5, 2], "read", "object-access-violated"),
            ([0x0E, 6, 0, 6], "write", "deciphering-error"),
            ([0x0E, 19, 7, 7], "terminate-upload", "data-set-not-ready"),
            ([0x0E, 1, 6, 9], "initiate", "unknown-error"),
        ];
        for (octets, service, name) in table {
            let error = ConfirmedServiceError::decode(&octets).unwrap();
            assert_eq!((error.service.name(), error.name()), (service, name));
        }
    }

    #[test]
    fn what_the_standard_does_not_have_is_refused_by_offset() {
        for (octets, at) in [
            ([0x0E, 0, 6, 1], 1),
            ([0x0E, 20, 6, 1], 1),
            ([0x0E, 1, 8, 1], 2),
        ] {
            assert!(matches!(
                ConfirmedServiceError::decode(&octets),
                Err(Error::Unexpected { offset, .. }) if offset == at
            ));
        }
    }
}
