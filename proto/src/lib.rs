//! The contract between the services: messages, clients and servers generated from `latchkey/*/v1`.

/// The descriptors of every proto, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("latchkey");

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1.
            #[allow(
                missing_docs,
                unused_qualifications,
                unreachable_pub,
                clippy::all,
                clippy::disallowed_methods,
                clippy::too_many_lines,
                clippy::large_futures,
                clippy::allow_attributes_without_reason,
                reason = "generated"
            )]
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    };
}

package!(
    /// Commands, permits, the trail and the allowlist.
    audit, "latchkey.audit.v1"
);
package!(
    /// Meter directory and associations.
    association, "latchkey.association.v1"
);
package!(
    /// Keys and ciphering.
    custody, "latchkey.custody.v1"
);
package!(
    /// Resets and single commands.
    reset, "latchkey.reset.v1"
);
