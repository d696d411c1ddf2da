//! Class 18, Image transfer: how firmware gets into a meter. A reset while one is running can leave half of it there.

use alloc::vec::Vec;

use super::value::{Bits, Octets, Zero};

class! {
    18, "Image transfer";
    attributes {
        /// Octets of a block, at most.
        2 IMAGE_BLOCK_SIZE "image_block_size": u32;
        /// One bit a block: whether it has arrived.
        3 IMAGE_TRANSFERRED_BLOCKS_STATUS "image_transferred_blocks_status": Bits;
        /// The first block that has not arrived, from 0.
        4 IMAGE_FIRST_NOT_TRANSFERRED_BLOCK_NUMBER "image_first_not_transferred_block_number": u32;
        /// Whether images can be transferred at all.
        5 IMAGE_TRANSFER_ENABLED "image_transfer_enabled": bool;
        /// How far it has come.
        6 IMAGE_TRANSFER_STATUS "image_transfer_status": Status;
        /// What would be activated.
        7 IMAGE_TO_ACTIVATE_INFO "image_to_activate_info": Vec<ImageToActivate>;
    }
    methods {
        /// Begins a transfer.
        1 IMAGE_TRANSFER_INITIATE "image_transfer_initiate": Initiate;
        /// Sends a block.
        2 IMAGE_BLOCK_TRANSFER "image_block_transfer": Block;
        /// Verifies the image.
        3 IMAGE_VERIFY "image_verify": Zero;
        /// Activates the image: the meter reboots.
        4 IMAGE_ACTIVATE "image_activate": Zero;
    }
}

structure! {
    /// An image that was verified.
    pub struct ImageToActivate as "structure of size, identification and signature" {
        /// Its octets.
        size: u32,
        /// Its name.
        identification: Octets,
        /// Its signature; may be empty.
        signature: Octets,
    }
}

structure! {
    /// What is going to be transferred.
    pub struct Initiate as "structure of image_identifier and image_size" {
        /// Its name.
        identifier: Octets,
        /// Its octets.
        size: u32,
    }
}

structure! {
    /// One block.
    pub struct Block as "structure of image_block_number and image_block_value" {
        /// Its number, from 0.
        number: u32,
        /// Its octets.
        value: Octets,
    }
}

codes! {
    /// How far a transfer has come. Read strictly: a guess could cost a meter its firmware.
    pub enum Status as "enum 0..7", strict {
        /// Nothing was begun.
        NotInitiated = 0, "image transfer not initiated";
        /// Blocks are arriving.
        Initiated = 1, "image transfer initiated";
        /// The image is being verified.
        VerificationInitiated = 2, "image verification initiated";
        /// The image is good.
        VerificationSuccessful = 3, "image verification successful";
        /// The image is not good.
        VerificationFailed = 4, "image verification failed";
        /// The image is being activated.
        ActivationInitiated = 5, "image activation initiated";
        /// The image is active.
        ActivationSuccessful = 6, "image activation successful";
        /// The image is not active.
        ActivationFailed = 7, "image activation failed";
    }
}

impl Status {
    /// Whether an update is under way, so that a reset would break it.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(
            self,
            Self::Initiated | Self::VerificationInitiated | Self::ActivationInitiated
        )
    }
}
