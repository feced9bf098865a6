//! libopus's decoder.
#![allow(unsafe_code, reason = "libopus is a C library")]

use opusic_sys::{
    OPUS_OK, OPUS_SET_GAIN_REQUEST, OpusDecoder, opus_decode, opus_decoder_create,
    opus_decoder_ctl, opus_decoder_destroy,
};
use std::ffi::c_int;
use std::ptr::NonNull;

/// A decoder to one channel, with what it remembers of the packets before.
#[derive(Debug)]
pub struct Decoder(NonNull<OpusDecoder>);

impl Decoder {
    /// A decoder that has seen no packet yet, for samples of this rate (8, 12, 16, 24 or 48 kHz), made
    /// louder by so many 256ths of a decibel; none if there is no memory for it, or no such rate.
    pub fn new(rate: u32, gain: i16) -> Option<Decoder> {
        let rate = i32::try_from(rate).ok()?;
        let mut error = OPUS_OK;
        // SAFETY: `error` lives for the call; the answer is null or a state that is ours.
        let state = unsafe { opus_decoder_create(rate, 1, &raw mut error) };
        let decoder = Decoder(NonNull::new(state)?);
        let gain = c_int::from(gain);
        // SAFETY: the state is ours and alive; this request takes an int.
        let set = unsafe { opus_decoder_ctl(state, OPUS_SET_GAIN_REQUEST, gain) };
        (set == OPUS_OK).then_some(decoder)
    }

    /// The samples of the next packet: as many as there are, at most as many as `out` has; none if it
    /// can not be decoded.
    pub fn decode(&mut self, packet: &[u8], out: &mut [i16]) -> usize {
        let (Ok(len), Ok(room)) = (i32::try_from(packet.len()), c_int::try_from(out.len())) else {
            return 0;
        };
        if len == 0 {
            return 0;
        }
        // SAFETY: the state is ours and alive; libopus reads `len` bytes of the packet and writes at
        // most `room` samples of one channel, and keeps no pointer to either.
        let made = unsafe {
            opus_decode(self.0.as_ptr(), packet.as_ptr(), len, out.as_mut_ptr(), room, 0)
        };
        usize::try_from(made).unwrap_or(0)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the state came from `opus_decoder_create` and nobody else has it.
        unsafe { opus_decoder_destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_packet_holds_is_decoded_or_nothing() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut out = [0; 5760];
        for rate in [8_000, 12_000, 16_000, 24_000, 48_000] {
            let mut decoder = Decoder::new(rate, 0).unwrap();
            for _ in 0..2_000 {
                let mut packet = vec![0; random.usize(..300)];
                random.fill(&mut packet);
                assert!(decoder.decode(&packet, &mut out) <= out.len());
            }
        }
        assert!(Decoder::new(44_100, 0).is_none());
    }
}
