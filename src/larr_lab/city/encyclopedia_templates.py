"""The sentences of the encyclopedia: one of each `[a|b]` is chosen, `{facts}` are filled in."""

from __future__ import annotations

OPENINGS_LOCAL = (
    "{name} is a [speciality|classic|well-known {kind}|favourite {kind}] of {region}: {note}.",
    "{name}, a {kind} [from|of] {region}, is {note}.",
    "[Among the specialities of {region} is|A local dish of {region} is] {name}, {note}.",
    "{region} is [the home of|known for] {name}, {note}.",
    "What is {name}? [In short|Put simply], {note}. It comes from {region}.",
)
OPENINGS_ELSEWHERE = (
    "{name} is a {kind} {origin}: {note}.",
    "{name} is {note}, a {kind} {origin}.",
    "What is {name}? [In short|Put simply], {note}. It is a {kind} {origin}.",
)
COLD_DISH = (
    "It is served cold, [so it is welcome|which makes it popular|just right] on a hot day.",
    "Because it is [cold|chilled], people [order|want|choose] it when the [weather|afternoon] is "
    "[hot|very hot|above thirty degrees].",
    "[In|During] the heat of summer {name} [cools|refreshes] the body; in [winter|snow|cold rain] "
    "[few people want|hardly anyone orders] something cold.",
)
WARMING_DISH = (
    "[Served hot|Steaming hot], it [warms the body|comforts] on a [cold|rainy|snowy|windy] day.",
    "When it [rains|snows|turns cold], people [want|like|look for] a hot {kind} such as {name}.",
    "[On a hot summer day|In great heat] {name} is less [popular|welcome] than something cold.",
    "{name} [suits|is best in] [winter|cold weather|a chilly evening|rain and wind].",
)
HOT_DISH = (
    "It is [eaten|served|best] hot.",
    "{name} is served hot and [tastes best|should be eaten] [at once|freshly made].",
)
MEALS: dict[str, tuple[str, ...]] = {
    "breakfast": (
        "It is [eaten|taken|bought] [for breakfast|in the morning|early in the day].",
        "{name} [is a common breakfast|opens the day|is a morning food].",
        "[Before work|On the way to work], many people [have|eat] {name} for breakfast.",
    ),
    "late_night": (
        "[Late at night|After ten at night|As a midnight snack] people [like|share|order] it.",
        "{name} is a [late-night food|favourite of the night market|midnight snack].",
        "Young people [order|share] {name} late at night with [cold beer|iced drinks|friends].",
    ),
    "drink": (
        "[In the afternoon|During a break at the office] people [order|drink|sip] {name}.",
        "It is a drink [for the afternoon|to take along|for a break], not a meal.",
    ),
    "dessert": (
        "It is a [sweet for|dessert for|treat of] the afternoon or after a meal.",
        "Young people like {name} [as an afternoon treat|after shopping|at the cinema].",
    ),
    "rice": (
        "With its rice it [makes|is] a full [lunch|meal], [quick|practical] for office workers.",
        "{name} comes with rice and is eaten at lunch or dinner.",
    ),
    "noodles": (
        "As noodles it makes a [quick|simple|complete] [meal|lunch or dinner] for one person.",
        "{name} is a noodle meal for one.",
    ),
    "buns": ("It is made of wheat dough or eaten with bread.", "Its staple is wheat bread."),
    "grilled": (
        "It is [grilled|roasted] over fire and [smells of smoke|tastes of the grill].",
        "As grilled food, {name} goes with [cold beer|an iced drink] and [company|friends].",
    ),
    "fried": (
        "It is fried [and crisp|in hot oil], so [the young like it more than the old|it is rich].",
        "{name} is fried, [crunchy|crisp] and [not for a diet|loved by the young].",
    ),
    "soup": ("It comes [with|in] a [broth|soup].", "{name} is [eaten|served] in [soup|broth]."),
    "light": (
        "It is light and easy to digest, [good for|suited to] [the sick|old people|a diet].",
        "Being light, {name} suits [people who watch their weight|patients|the old].",
    ),
}
"""Flag or staple -> what it says about the dish."""
PROTEINS = (
    "The main ingredient is {protein}.",
    "{name} is made with {protein}.",
    "It is [chosen|ordered] by people who like {protein}.",
)
NO_CHILI = (
    "It has no chili, so [children|people who avoid spicy food|guests from the coast] can eat it.",
    "{name} is not spicy.",
)
TASTES = (
    "It [tastes|is] {taste}.",
    "The taste is {taste}.",
    "{name} is {taste}.",
    "[Most people|Those who know it] describe the flavour as {taste}.",
)
PRICES = (
    "It costs about {price} yuan, which is {cost}.",
    "A portion is {cost}, around {price} yuan.",
    "With a price near {price} yuan {name} is {cost}.",
)
ALSO = (
    "It is also [called|known as] {also}.",
    "One also says {also}.",
    "[Many people|Menus] call it {also}.",
)
TRAVELLERS = (
    "A traveller in {region} should [try|taste|order] {name}.",
    "Visitors to {city} [look for|ask for|want to try] {name}, because it is local.",
    "People from {region} who live far away [miss|long for] {name}.",
    "In {city} {name} is [found everywhere|part of daily life|a local food].",
)
LIKED = (
    "People from {region}, who [love|like|are fond of] {thing}, [enjoy|often order] {name}.",
    "In {region}, where people [like|love] {thing}, {name} [is welcome|finds many friends].",
)
DISLIKED = (
    "People from {region} [do not care for|tend to avoid] {thing}, so few of them order {name}.",
    "For many in {region}, who [avoid|dislike] {thing}, {name} is [not the first choice|too much].",
)
COMPANIONS = (
    "It [goes well|is often ordered|is good] with {other}.",
    "[Many people add|A common companion is] {other}.",
)
QUESTIONS_OF_ORIGIN = (
    (("[Where does {name} come from|What is the origin of {name}]?", "It is {origin}."),),
    (
        ("[Where does {name} come from|Where is {name} at home]?", "It comes from {region}."),
        ("Which region is [known|famous] for {name}?", "[The answer is|That is] {region}."),
        ("What should a [traveller|visitor] eat in {city}?", "For example {name}, which is local."),
    ),
)
"""Pairs of question and answer, for dishes from elsewhere and for those of a region."""
QUESTIONS_OF_TASTE = ("How does {name} taste?", "What is the flavour of {name}?")
QUESTIONS_OF_PRICE = ("[How much is|What is the price of|What does one pay for] {name}?",)
QUESTIONS_OF_WEATHER = (
    ("Is {name} good [on a cold day|in winter|in the rain]?", "Is {name} right for cold weather?"),
    ("Is {name} good [on a hot day|in summer|in the heat]?", "Is {name} right for hot weather?"),
)
"""Of a cold day, of a hot day."""
ANSWERS_COLD = (
    ("Hardly, because it is served cold.", "No, [it is cold|few want something cold then]."),
    (
        "Yes, it is [cold and refreshing|served cold].",
        "Yes, [it cools the body|because it is cold].",
    ),
)
ANSWERS_WARMING = (
    ("Yes, it is [hot and warming|served steaming hot].", "Yes, [it warms the body|very much so]."),
    ("Hardly, it is [hot and heavy|too warming].", "No, something cold is more welcome then."),
)
ANSWERS_CHILI = (
    ("No, it is not spicy.", "No, it has no chili.", "No, [children can eat it|it is mild]."),
    ("Only a little.", "Slightly.", "[A bit|Mildly], most people can eat it."),
    ("Yes, it is spicy.", "Yes, it is hot with chili."),
    ("Yes, very spicy.", "Yes, [it is fiery|it is among the hottest dishes]."),
)
COMPARED = (
    "{a} is {taste_a}, {b} is {taste_b}.",
    "{a} is a {kind_a} and {b} is a {kind_b}.",
    "{a} is {note_a}, [and|while] {b} is {note_b}.",
    "[Compared,|Tasted together,] {a} [tastes|is] {taste_a}, [but|and] {b} {taste_b}.",
)
ALIKE = (
    "Both are {alike}.",
    "[They have in common that|What joins them is that] both are {alike}.",
    "Both are {alike}, so [people who like one often like the other|one can replace the other].",
)
UNLIKE = (
    "They have [little|hardly anything] in common.",
    "They are quite different, [and so are the people who order them|for different moments].",
)
REGION_BANKS = (
    (
        "The kitchen of {region} is [called|known as] {cuisine} cuisine.",
        "{cuisine} cuisine [belongs to|is the cooking of] {region}.",
        "{region} [cooks|eats] in the {cuisine} style.",
    ),
    ("The climate of {region} is {climate}.", "{region} has a {climate} climate."),
    ("{habit}", "About the habits of {region}: {habit}"),
    (
        "[Specialities|Well-known dishes] of {region} are {foods}.",
        "[Travellers come for|A visitor should try] {foods}.",
        "Those who grew up in {region} [miss|remember] {foods}.",
    ),
    ("Cities of {region} are {towns}.", "{towns} lie in {region}."),
)
REGION_COLD = "[In the hot months|On hot days] [people|the locals] [have|like|order] {cold}."
REGION_WARM = "[When it is cold|In rain and cold|In winter] {warm} [warm the body|are welcome]."
REGION_TASTES = (
    "People from {region} like {liked}, and avoid {avoided}.",
    "Who grew up in {region} [is fond of|loves] {liked}, but [rarely orders|dislikes] {avoided}.",
    "In {region} {liked} are liked; {avoided} less so.",
)
CITY_BANKS = (
    (
        "{city} is a city in {region} with about {population_millions} million people.",
        "{city}, a city of {population_millions} million people, lies in {region}.",
        "With {population_millions} million people, {city} belongs to {region}.",
    ),
    (
        "It lies near {lat} degrees north and {lon} degrees east, and {guests}.",
        "As for travel, {guests}.",
    ),
    ("The climate is {climate}.", "Its climate: {climate}."),
    (
        "[Local|Typical] foods of {city} are {foods}.",
        "In {city} one eats {cuisine} food such as {foods}.",
        "A traveller in {city} tries {foods}.",
    ),
)
MONTH = (
    "In {month} {city} is {weather}, [about|around] {celsius} degrees, with {days} days of {wet}.",
    "{city} in {month} is {weather}: {celsius} degrees on average, {days} days with {wet}.",
    "{month} brings {city} {days} days of {wet} and {celsius} degrees, which is {weather}.",
)
SEASONS = {
    "hot": (
        "In this heat people in {city} [want|order|like] cold things such as {foods}.",
        "{foods} [refresh|cool], and hot soups are [left alone|ordered less].",
    ),
    "cold": (
        "In this cold people in {city} [want|order|like] hot food such as {foods}.",
        "{foods} [warm the body|are welcome], and iced drinks are [left alone|ordered less].",
    ),
    "mild": (
        "In such mild weather people in {city} eat what they like, for example {foods}.",
        "It is a [good|pleasant] time for {foods}.",
    ),
}
AWAY = (
    "Someone from {home} who lives in {city} [misses|still orders] {own}.",
    "A traveller from {home} who comes to {city} wants to try {foods}, the local food of {region}.",
    "A person who grew up in {home} and [moved to|works in] {city} likes the food of home, {own}, "
    "[yet|but] now and then eats {foods}.",
    "On a journey to {city}, a guest from {home} [tries|asks for] {foods} instead of {own}.",
)
AT_HOME = (
    "Someone from {home} who lives in {city} is at home there and [eats|orders] {own}.",
    "In {city} a person from {home} finds the food of childhood, {foods}.",
)
LISTS = (
    "A list of {heading}: {foods}.",
    "{heading}: {foods}.",
    "[Examples of|Among the] {heading} are {foods}.",
    "Who looks for {heading} [may choose|can take|thinks of] {foods}.",
    "What are {heading}? For example {foods}.",
)
LOCAL_LISTS = (
    "Of {region}, {heading}: {foods}.",
    "{heading}, from the kitchen of {region}: {foods}.",
    "In {region} one finds, among {heading}, {foods}.",
    "What does {region} know of {heading}? There is {foods}.",
)
NO_LOCAL_LISTS = (
    "{region} is not known for {heading}; it has {foods}.",
    "One does not go to {region} for {heading}, but for {foods}.",
)
HABIT_BANKS = (
    (
        "{when} people [want|like|look for] {what}.",
        "{when} many [choose|order] {what}.",
        "What do people want {later}? Mostly {what}.",
    ),
    (
        "That may be {foods}.",
        "Examples are {foods}.",
        "[Good choices are|One thinks of] {foods}.",
    ),
)
