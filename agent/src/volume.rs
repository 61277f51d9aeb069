pub mod mountinfo;
