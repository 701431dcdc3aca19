"""The words from which names, tags, introductions and nicknames are put together."""

# ruff: noqa: SIM905  (plain lists of words read better as one text)

from __future__ import annotations

SURNAMES = tuple(
    "Wang Li Zhang Liu Chen Yang Zhao Huang Zhou Wu Xu Sun Hu Zhu Gao Lin He Guo Ma Luo Liang Song "
    "Zheng Xie Han Tang Feng Yu Dong Xiao Cheng Cao Yuan Deng Fu Shen Zeng Peng Lu Su Jiang Cai "
    "Jia Ding Wei Xue Ye Yan Pan Du Dai Xia Zhong Tian Ren Fan Fang Shi Yao Tan Liao Zou".split()
)
CATEGORY_WORDS: dict[str, tuple[str, ...]] = {
    "noodles": ("Noodle House", "Noodles", "Noodle Shop", "Noodle Bar", "Mian Guan"),
    "rice meals": ("Rice Bowls", "Rice Kitchen", "Rice Meals", "Fast Food", "Lunch Box"),
    "milk tea and drinks": ("Tea", "Milk Tea", "Tea House", "Juice Bar", "Drinks"),
    "snacks": ("Snacks", "Snack Street", "Small Bites", "Xiao Chi", "Snack Shop"),
    "burgers and pizza": ("Burger", "Pizza", "Fried Chicken", "Burger and Pizza", "Diner"),
    "barbecue": ("Barbecue", "Skewers", "Grill", "Charcoal Grill", "Shao Kao"),
    "dumplings and buns": ("Dumplings", "Bun Shop", "Dumpling House", "Baozi", "Wontons"),
    "congee and breakfast": ("Breakfast", "Congee", "Morning Shop", "Porridge", "Zao Can"),
    "sichuan and hunan": ("Spicy Kitchen", "Chili House", "Xiang Cai", "Chuan Cai", "Red Oil"),
    "desserts and bakery": ("Bakery", "Desserts", "Sweet Shop", "Cakes", "Sugar House"),
    "hotpot": ("Hotpot", "Hot Pot", "Shabu", "Huo Guo", "Boiling Pot"),
    "home-style dishes": ("Home Cooking", "Family Dishes", "Stir-Fry", "Home Kitchen"),
    "soups and stews": ("Soup", "Stew House", "Claypot", "Soup Kitchen", "Slow Stew"),
    "japanese and korean": ("Sushi", "Ramen", "Izakaya", "Korean Kitchen", "Bento"),
    "salads and light meals": ("Salad", "Light Meals", "Green Bowl", "Fit Kitchen"),
    "seafood and crayfish": ("Seafood", "Crayfish", "Fishing Boat", "Sea Kitchen"),
    "northern dishes": ("Northern Kitchen", "Stew Pot", "Big Dishes", "Northern Table"),
    "cantonese": ("Roast Meats", "Cantonese Kitchen", "Tea Restaurant", "Siu Mei"),
}
SUFFIXES = ("Kitchen", "House", "Restaurant", "Shop", "Table", "Place", "Canteen")
MOODS = (
    "Lucky",
    "Golden",
    "Moonlight",
    "Red Lantern",
    "Bamboo",
    "Little",
    "Happy",
    "Old Street",
    "Morning Star",
    "Blue Door",
    "White Crane",
    "Jade",
    "Plum Blossom",
    "Good Neighbour",
    "Sunny",
    "Big Bowl",
    "Three Brothers",
    "Grandma's",
    "Cloud",
    "Stone Bridge",
    "Wooden Stool",
    "Green Hill",
    "South Wind",
    "Fat Cat",
    "Second Sister",
    "Running Horse",
    "Osmanthus",
    "Two Rivers",
    "Nine Lane",
    "Flying Fish",
    "Dragon Well",
    "Tiger Mountain",
    "Warm",
    "Corner",
)
UNINFORMATIVE = (
    "Old {surname}'s Kitchen",
    "{surname}'s Place",
    "{surname} Family Shop",
    "No. {number} Canteen",
    "{mood} Table",
    "{mood} Restaurant",
    "Next Door",
    "Home Taste",
    "The {mood} House",
    "Brother {surname}",
    "Auntie {surname}",
    "{area} Canteen",
    "A Good Meal",
    "{mood} {surname}",
)
TELLING = (
    "{surname}'s {dish}",
    "{city} {dish}",
    "{mood} {kind}",
    "{surname} Family {kind}",
    "{taste} {kind}",
    "{origin} {kind}",
    "Old {surname} {kind}",
    "{dish} House",
    "{dish} No. {number}",
    "{area} {kind}",
    "{origin} {dish}",
    "{mood} {dish}",
    "{taste} {dish}",
    "{city} {kind}",
)
MISLEADING = (
    "{other_city} {other_kind}",
    "{other_origin} {other_kind}",
    "{other_dish} House",
    "{surname}'s {other_dish}",
    "{mood} {other_kind}",
)
CHAIN = (
    "{mood} {kind}",
    "{surname} Ji {kind}",
    "{mood} {dish}",
    "{surname} & Sons",
    "{origin} {kind}",
    "{mood}",
    "{taste} {kind}",
    "{surname}'s {dish}",
    "Mr {surname} {kind}",
    "{mood} {surname}",
)
TASTE_WORDS: dict[str, tuple[str, ...]] = {
    "spicy": ("spicy", "hot and spicy", "mala", "fiery"),
    "sweet": ("sweet", "sweet taste"),
    "sour": ("sour", "tangy", "vinegar"),
    "oily": ("rich", "hearty", "heavy taste"),
    "cold": ("cold dishes", "chilled", "iced"),
    "soup": ("soup", "with broth", "brothy"),
    "drink": ("drinks", "tea drinks", "beverages"),
    "dessert": ("dessert", "sweets", "afternoon treat"),
    "grilled": ("grilled", "barbecue", "charcoal"),
    "fried": ("fried", "crispy", "deep-fried"),
    "breakfast": ("breakfast", "early meal", "morning"),
    "late_night": ("late night", "night snack", "open late"),
    "light": ("light", "healthy", "low oil"),
    "rice": ("rice", "goes with rice"),
    "noodles": ("noodles", "mian"),
    "buns": ("buns", "flatbread", "wheat"),
    "seafood": ("seafood", "fish and shrimp"),
    "lamb": ("lamb", "mutton"),
    "beef": ("beef",),
    "pork": ("pork",),
    "poultry": ("chicken", "poultry", "chicken and duck"),
    "plain": ("tofu and vegetables", "vegetarian friendly", "greens"),
}
"""How an owner says an attribute."""
FLAVOURS: dict[str, tuple[str, ...]] = {
    "spicy": ("spicy", "mala", "fiery", "red-hot"),
    "sweet": ("sweet", "sugary"),
    "sour": ("sour", "tangy"),
    "oily": ("rich", "hearty"),
    "cold": ("chilled", "iced", "cool"),
    "soup": ("steaming", "brothy"),
    "grilled": ("charcoal", "smoky", "grilled"),
    "fried": ("crispy", "golden-fried"),
    "breakfast": ("early", "morning"),
    "late_night": ("midnight", "late-night"),
    "light": ("light", "healthy"),
}
"""The same as an adjective."""
EMPTY_FLAVOURS = ("tasty", "honest", "homemade", "famous", "fresh")
EMPTY_TAGS = (
    "popular",
    "fast delivery",
    "clean",
    "signature",
    "student favourite",
    "big portions",
    "new look",
    "brand",
    "good value",
    "takeaway",
    "one-person meal",
    "set meals",
    "owner's choice",
)
INTROS = (
    "{origin} flavours in {area}. Try our {dish}.",
    "We make {dish} and {dish2} every day.",
    "{Taste} {kind} for {meal}.",
    "Known for {dish}, with {dish2} on the side.",
    "A small {category} shop from {city}; {dish} is what regulars come for.",
    "Our cook learned {dish} in {home}. Best for {meal}.",
    "{Taste} and {taste2}, as in {home}.",
    "For {meal}: {dish}, {dish2} and more.",
    "If you like it {taste}, order the {dish}.",
    "{Meal} with {dish}. Also {dish2}.",
)
EMPTY_INTROS = (
    "Made with heart since {year}.",
    "Quality first, customers first.",
    "Family run since {year}.",
    "Clean kitchen, honest prices. Thank you for your support.",
    "Welcome! Please leave a review.",
    "A taste you will remember.",
    "Open every day, delivered fast.",
    "Ten years in {area}.",
)
MEALS: dict[str, tuple[str, ...]] = {
    "breakfast": ("breakfast", "an early morning"),
    "late_night": ("a late night", "a night with friends", "a midnight snack"),
    "drink": ("a warm afternoon", "a break in the afternoon"),
    "dessert": ("an afternoon break", "something sweet after dinner"),
    "soup": ("a cold day", "a rainy evening"),
    "grilled": ("an evening with friends", "a late dinner"),
    "light": ("a light lunch", "a hot day"),
    "rice": ("a quick lunch", "lunch at the office"),
    "noodles": ("a quick lunch", "any meal"),
}
NICKNAME_FIRST = tuple(
    "little lazy happy sleepy quiet hungry lucky blue silent old foolish busy brave sweet spicy "
    "winter summer autumn moon cloud rain tiny big cool lonely crazy gentle flying".split()
)
NICKNAME_SECOND = tuple(
    "cat panda fish bear rabbit wind star leaf boat river dumpling potato tiger fox whale sparrow "
    "snow lotus bamboo traveller coder student teacher rider melon peach mushroom sunshine".split()
)
