/* Empty: BCC's text includes it, these programs do not need it. */
