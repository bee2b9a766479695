//! `maskd fleet`, for sharing models between devices through their broker.

use clap::Subcommand;

use super::{Failure, Global, print};
use crate::learning::fleet::{Key, KeyError};
use crate::platform::hex;

#[derive(Debug, Subcommand)]
pub(super) enum Fleet {
    /// Print the public key of this device, for fleet.trust on the other devices
    ///
    /// The first call creates the key and stores it in the state directory.
    Key,
}

impl Fleet {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let Fleet::Key = self;
        let key = Key::open(&global.state_dir()?).map_err(|error| {
            let exit = match error {
                KeyError::Damaged { .. } | KeyError::StateFormat(_) => Failure::DATA,
                KeyError::File(_) | KeyError::Random(_) => Failure::CANNOT_WRITE,
            };
            Failure::new(exit, error)
        })?;
        print(format!("{}\n", hex::encode(&key.public())))
    }
}
