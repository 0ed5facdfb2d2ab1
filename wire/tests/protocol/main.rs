//! The protocol from outside: round trips, damage, the published vectors and the corpus of the fuzz targets.

mod corpus;
mod damage;
mod exercise;
mod messages;
mod round_trip;
mod vectors;
mod words;
