//! Whether a link computes the checksums of what it sends: ethtool's feature `tx-checksum-ip-generic`.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use net_types::IfName;
use nix::errno::Errno;

use crate::{Error, Netns, Result};

/// The feature's name in `ethtool -k` (`netdev_features_strings` in `net/ethtool/common.c`).
const FEATURE: &[u8] = b"tx-checksum-ip-generic";

// Numbers of linux/ethtool.h and linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// The answer's bits for "the link does not support the feature" and "another feature forces it on".
const UNSUPPORTED_OR_WISH: libc::c_int = 0b11;

/// The number of 32-bit words of `struct ethtool_get_features_block`: available, requested, active, never_changed.
const WORDS_IN_GET: usize = 4;
/// The number of 32-bit words of `struct ethtool_set_features_block`: valid, requested.
const WORDS_IN_SET: usize = 2;

/// The transmit checksum offload of a link, found in the kernel's table of features.
pub struct TxChecksum<'a> {
    socket: OwnedFd,
    name: &'a IfName,
    bit: usize,
    features: usize,
}

impl<'a> TxChecksum<'a> {
    /// Finds the feature of a link of a namespace.
    ///
    /// # Errors
    /// The link does not exist, or the kernel does not know the feature.
    pub fn find(netns: &Netns, name: &'a IfName) -> Result<Self> {
        let socket =
            netns.enter(open_socket)?.map_err(|errno| failed("read the features of", name, errno))?;
        let mut found = Self { socket, name, bit: 0, features: 0 };
        // cmd, reserved, sset_mask (64 bits), then a word for each set that was asked for.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        found.call("read the features of", &mut info)?;
        found.features = info[4] as usize;
        // cmd, string_set, len, then texts of 32 bytes.
        let mut strings = vec![0_u32; 3 + found.features * ETH_GSTRING_LEN / 4];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]]);
        found.call("read the features of", &mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let named = |text: &[u8]| text.split(|&byte| byte == 0).next() == Some(FEATURE);
        let position = bytes.chunks(ETH_GSTRING_LEN).position(named);
        found.bit =
            position.ok_or_else(|| failed("find tx-checksum-ip-generic of", name, Errno::EOPNOTSUPP))?;
        Ok(found)
    }

    /// Whether it is on: the link, or the receiver of its frames, computes the checksums.
    ///
    /// # Errors
    /// The kernel refuses the query.
    pub fn is_on(&self) -> Result<bool> {
        const ACTIVE: usize = 2;
        let blocks = self.features.div_ceil(32);
        let mut words = vec![0_u32; 2 + blocks * WORDS_IN_GET];
        words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, u32::try_from(blocks).unwrap_or(u32::MAX)]);
        self.call("read the features of", &mut words)?;
        let word = words[2 + self.bit / 32 * WORDS_IN_GET + ACTIVE];
        Ok(word & (1 << (self.bit % 32)) != 0)
    }

    /// Switches it off: the kernel computes the checksums before the link gets a packet.
    ///
    /// # Errors
    /// The kernel refuses the change.
    pub fn switch_off(&self) -> Result<()> {
        let operation = "switch tx-checksum-ip-generic off on";
        let blocks = self.features.div_ceil(32);
        let mut words = vec![0_u32; 2 + blocks * WORDS_IN_SET];
        words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, u32::try_from(blocks).unwrap_or(u32::MAX)]);
        words[2 + self.bit / 32 * WORDS_IN_SET] = 1 << (self.bit % 32);
        let differs = self.call(operation, &mut words)?;
        if differs & UNSUPPORTED_OR_WISH != 0 && self.is_on()? {
            return Err(failed(operation, self.name, Errno::EOPNOTSUPP));
        }
        Ok(())
    }

    /// Sends one request; the words are the structure that the command expects.
    #[expect(unsafe_code, reason = "nix has no ethtool requests")]
    fn call(&self, operation: &'static str, words: &mut [u32]) -> Result<libc::c_int> {
        // SAFETY: all zeroes is an ifreq without a name.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.as_str().bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: the kernel reads and writes the structure that its first word names, which is as long as the counts in it
        // say; a name has at most 15 bytes, so the zero behind it stays.
        let done = unsafe { libc::ioctl(self.socket.as_fd().as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        Errno::result(done).map_err(|errno| failed(operation, self.name, errno))
    }
}

fn failed(operation: &'static str, name: &IfName, errno: Errno) -> Error {
    Error::system(operation, name, errno)
}

#[expect(unsafe_code, reason = "std opens no socket without an address")]
fn open_socket() -> Result<OwnedFd, Errno> {
    // SAFETY: socket makes a descriptor, for us alone.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: it was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
